"""A thousand callers on one server: whether all are served, and what each costs the server while it is idle."""

from __future__ import annotations

import time

from benchmarks.measure.rounds import Step
from benchmarks.measure.throughput import crew
from benchmarks.plan import Effort
from benchmarks.processes import cpu_ns, descriptors, memory, shared_memory
from benchmarks.stage import SLACK, Entry, Stage, one_line
from benchmarks.stats import Reading
from ipcd.demo.processes import StageError

GROUP = "callers"

PATIENCE = 120.0  # seconds for all to have been introduced and served


def turns(stage: Stage, _effort: Effort) -> int:
    """How many steps there will be."""
    return sum(1 for entry in stage.present if entry.peer.channels)


def measure(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer that has channels: a server of its own, and callers in a few processes, each a
    channel."""
    readings = []
    for kind in [entry.peer for entry in stage.present if entry.peer.channels]:
        (entry,) = stage.add([kind], prefix="many-")
        if not entry.missing:
            try:
                readings.append(_measure(entry, effort))
            except (StageError, OSError) as error:
                entry.fail(one_line(error))
        if entry.missing:
            stage.tell(f"{kind.label}, {effort.callers} callers: {entry.missing}")
            readings.append(Reading(GROUP, kind.name, {}, {"served": 0.0, "callers": float(effort.callers)}))
        stage.end([entry])
        step(f"{kind.label}: {effort.callers} callers")
    return readings


def _measure(entry: Entry, effort: Effort) -> Reading:
    entry.ask({"do": "latency", "size": 64, "seconds": 0.2, "keep": False})
    process = crew(entry, effort.caller_processes)
    try:
        before, open_before, shared_before = memory(entry.server_pid), descriptors(entry.server_pid), shared_memory()
        began = time.monotonic()
        served = process.ask({"do": "gather", "count": effort.callers}, PATIENCE)["served"]
        took = time.monotonic() - began
        again = process.ask({"do": "again"}, SLACK)["served"]
        time.sleep(effort.settle)
        after, opened = memory(entry.server_pid), descriptors(entry.server_pid) - open_before
        shared = shared_memory() - shared_before
        if opened < effort.callers:
            raise StageError(f"{effort.callers} callers have {opened} connections with the server")
        cpu = cpu_ns(entry.server_pid)
        time.sleep(effort.settle)
        idle_ns = cpu_ns(entry.server_pid) - cpu
    finally:
        entry.stage.children.stop(process)
    values = {
        "callers": float(effort.callers),
        "served": float(min(served, again)),
        "seconds": took,
        "rss_per_caller": (after.rss - before.rss) / effort.callers,
        "pss_per_caller": (after.pss - before.pss) / effort.callers,
        "private_per_caller": (after.private - before.private) / effort.callers,
        "shared_per_caller": shared / effort.callers,
        "descriptors_per_caller": opened / effort.callers,
        "idle_cpu_ms_per_s": idle_ns / 1e6 / effort.settle,
    }
    return Reading(GROUP, entry.name, {}, values)
