"""The first call on a new channel: for ipcd with the introduction by the node, for grpcio with the connection."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.measure.rounds import Step, interleave
from benchmarks.plan import Effort
from benchmarks.stage import Entry, Stage
from benchmarks.stats import Reading
from ipcd.demo.timing import percentile

GROUP = "first-call"


def _entries(stage: Stage) -> list[Entry]:
    return [entry for entry in stage.present if entry.peer.channels]


def turns(stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return (effort.rounds + 1) * len(_entries(stage))


def measure(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer that has channels. The process has made others before, and keeps one."""
    taken: defaultdict[str, list[float]] = defaultdict(list)

    def turn(entry: Entry, number: int) -> str:
        took = entry.ask({"do": "first", "times": effort.first_calls})["us"]
        if number >= 0:
            taken[entry.name] += took
        return f"first call {min(took):,.0f} us"

    entries = _entries(stage)
    interleave(entries, effort.rounds, turn, step)
    readings = []
    for entry in entries:
        if taken[entry.name] and not entry.missing:
            ns = sorted(int(one * 1000) for one in taken[entry.name])
            values = {"p50_us": percentile(ns, 50) / 1000, "p99_us": percentile(ns, 99) / 1000, "calls": float(len(ns))}
            readings.append(Reading(GROUP, entry.name, {}, values))
    return readings
