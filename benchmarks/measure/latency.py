"""One call after the other: how long each takes, and the CPU time of both processes."""

from __future__ import annotations

from benchmarks.measure.rounds import Step, interleave
from benchmarks.plan import Effort
from benchmarks.stage import Entry, Stage, one_line
from benchmarks.stats import Reading
from ipcd.demo.processes import StageError

GROUP = "latency"


def turns(stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return len(stage.present) * sum(effort.turns_of(size)[0] + 1 for size in effort.sizes)


def measure(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer and size."""
    readings = []
    entries = stage.present
    for size in effort.sizes:
        rounds, seconds = effort.turns_of(size)

        def turn(entry: Entry, number: int, size: int = size, seconds: float = seconds) -> str:
            command = {"do": "latency", "size": size, "seconds": seconds, "keep": number >= 0}
            return f"{size} B, {entry.ask(command, seconds)['p50_us']:.1f} us"

        interleave(entries, rounds, turn, step)
        for entry in entries:
            if entry.missing:
                continue
            try:
                summary = entry.ask({"do": "summary", "size": size})
            except StageError as error:
                entry.fail(one_line(error))
                continue
            readings.append(Reading(GROUP, entry.name, {"size": size}, summary))
    return readings
