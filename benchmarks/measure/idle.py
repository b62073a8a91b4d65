"""Everything connected and nobody calling: the CPU time of a daemon, a server, and a client with many channels."""

from __future__ import annotations

import time
from typing import NamedTuple

from benchmarks import nodes
from benchmarks.measure.rounds import Step
from benchmarks.peers.registry import BY_NAME
from benchmarks.plan import Effort
from benchmarks.processes import cpu_ns, descriptors, memory
from benchmarks.stage import Entry, Stage
from benchmarks.stats import Reading
from ipcd.demo.processes import StageError

GROUP = "idle"

_PART = 1.0  # seconds between two steps of the progress


class _Watched(NamedTuple):
    """A process, and what it is connected with."""

    peer: str
    process: str
    pid: int
    connected: str


def turns(_stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return round(effort.idle_seconds / _PART)


def measure(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """For ipcd (over what it picks by itself) and grpcio beside it, where they are measured at all.

    The daemon is one without links: what two linked nodes say to each other is read apart.
    """
    watched: list[_Watched] = []
    entries: list[Entry] = []
    try:
        if stage.nodes and any(entry.peer.ours for entry in stage.present):
            alone = nodes.start(stage.children, stage.directory, "alone")
            pair, stage.nodes = stage.nodes, [alone]
            try:
                entries += stage.add([BY_NAME["ipcd-unix"]], prefix="idle-", socket="auto")
            finally:
                stage.nodes = pair
            watched.append(_Watched("ipcd", "daemon", alone.process.pid, "this server, this client"))
            watched.append(_Watched("ipcd", "linked daemon", pair[0].process.pid, "another node, other servers"))
        if any(entry.name == "grpcio-unix" for entry in stage.present):
            entries += stage.add([BY_NAME["grpcio-unix"]], prefix="idle-")
        for entry in entries:
            kind = "ipcd" if entry.peer.ours else "grpcio"
            if not entry.missing:
                entry.attempt(lambda entry=entry: _gather(entry, effort.idle_channels))  # type: ignore[misc]
            if entry.missing:
                stage.tell(f"{kind}, idle: {entry.missing}")
                continue
            connected = f"{effort.idle_channels} channels over {entry.transport}"
            watched.append(_Watched(kind, "server", entry.server_pid, connected))
            watched.append(_Watched(kind, "client", entry.client_pid, connected))
        return _watch(watched, effort, step)
    finally:
        stage.end(entries)


def _gather(entry: Entry, count: int) -> None:
    before = descriptors(entry.server_pid)
    served = entry.ask({"do": "gather", "count": count}, 60.0)["served"]
    opened = descriptors(entry.server_pid) - before
    if served != count or opened < count:
        raise StageError(f"{served} of {count} channels were served, over {opened} connections")


def _watch(watched: list[_Watched], effort: Effort, step: Step) -> list[Reading]:
    time.sleep(effort.settle)
    began = time.monotonic()
    before = [cpu_ns(one.pid) for one in watched]
    while (left := began + effort.idle_seconds - time.monotonic()) > 0:
        time.sleep(min(_PART, left))
        step("idle")
    spent = [(cpu_ns(one.pid) - first) / 1e6 for one, first in zip(watched, before, strict=True)]
    took = time.monotonic() - began
    return [
        Reading(
            GROUP,
            one.peer,
            {"process": one.process, "connected": one.connected},
            {"cpu_ms": cpu_ms, "seconds": took, "rss": float(memory(one.pid).rss), "pss": float(memory(one.pid).pss)},
        )
        for one, cpu_ms in zip(watched, spent, strict=True)
    ]
