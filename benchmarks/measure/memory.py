"""Memory of a server and a client process: once a few small calls were made, and after the largest messages."""

from __future__ import annotations

from benchmarks.plan import SMALL
from benchmarks.processes import memory
from benchmarks.stage import Stage, one_line
from benchmarks.stats import Reading
from ipcd.demo.processes import StageError

GROUP = "memory"

_WARM = 0.05  # seconds of calls before the first reading


def warm(stage: Stage) -> None:
    """A few small calls for each."""
    for entry in stage.present:
        try:
            entry.ask({"do": "latency", "size": SMALL, "seconds": _WARM, "keep": False})
        except StageError as error:
            entry.fail(one_line(error))


def measure(stage: Stage, when: str) -> list[Reading]:
    """A reading for each peer; `when` is the point it is kept under."""
    readings = []
    for entry in stage.present:
        try:
            server, client = memory(entry.server_pid), memory(entry.client_pid)
        except OSError as error:
            entry.fail(f"a process has ended ({error})")
            continue
        values = {f"server_{name}": float(size) for name, size in server._asdict().items()}
        values |= {f"client_{name}": float(size) for name, size in client._asdict().items()}
        readings.append(Reading(GROUP, entry.name, {"when": when}, values))
    return readings
