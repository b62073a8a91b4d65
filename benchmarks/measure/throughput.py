"""Many calls in flight on one connection, and one call at a time from many processes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.measure.rounds import Step, interleave
from benchmarks.plan import SMALL, Effort
from benchmarks.stage import SLACK, START, Entry, Stage
from benchmarks.stats import Reading
from ipcd.demo.processes import StageError, Talker

IN_FLIGHT = "throughput"
PROCESSES = "processes"


def points(entry: Entry, effort: Effort) -> list[tuple[str, int]]:
    """(way, how many in flight) for a peer."""
    return [(way, count) for count in effort.in_flight for way in entry.peer.ways]


def in_flight_turns(stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return (effort.rounds + 1) * sum(len(points(entry, effort)) for entry in stage.present)


def in_flight(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer, way and number of calls in flight; of the rounds the median."""
    readings: list[Reading] = []
    everyone = stage.present
    for point in sorted({point for entry in everyone for point in points(entry, effort)}, key=lambda one: one[::-1]):
        way, count = point
        rates: defaultdict[str, list[float]] = defaultdict(list)

        def turn(
            entry: Entry, number: int, way: str = way, count: int = count, rates: dict[str, list[float]] = rates
        ) -> str:
            command = {"do": "sustain", "way": way, "in_flight": count, "size": SMALL, "seconds": effort.turn}
            answer = entry.ask(command, effort.turn)
            rate = answer["calls"] / answer["seconds"]
            if number >= 0:
                rates[entry.name].append(rate)
            return f"{count} {way}, {rate:,.0f} calls/s"

        entries = [entry for entry in everyone if point in points(entry, effort)]
        interleave(entries, effort.rounds, turn, step)
        readings += _readings(IN_FLIGHT, entries, rates, {"way": way, "in_flight": count})
    return readings


def _readings(
    group: str, entries: Sequence[Entry], rates: dict[str, list[float]], at: dict[str, int | str]
) -> list[Reading]:
    return [
        Reading(group, entry.name, at, {"calls_per_s": statistics.median(rates[entry.name])})
        for entry in entries
        if rates[entry.name] and not entry.missing
    ]


def crewed(stage: Stage) -> list[Entry]:
    """Those that many processes call."""
    return [entry for entry in stage.present if entry.peer.crew and not entry.peer.aio]


def process_turns(stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return (effort.crowd[0] + 1) * len(effort.processes) * len(crewed(stage))


def processes(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer and number of client processes; of the rounds the median."""
    entries = crewed(stage)
    crews: dict[str, Talker] = {}
    most = max(effort.processes)
    rounds, seconds = effort.crowd
    for entry in entries:
        try:
            crews[entry.name] = crew(entry, most)
        except StageError as error:
            entry.fail(str(error))
    readings: list[Reading] = []
    for active in effort.processes:
        rates: defaultdict[str, list[float]] = defaultdict(list)

        def turn(entry: Entry, number: int, active: int = active, rates: dict[str, list[float]] = rates) -> str:
            command = {"do": "together", "active": active, "size": SMALL, "seconds": seconds}
            rate = crews[entry.name].ask(command, seconds + SLACK)["calls"] / seconds
            if number >= 0:
                rates[entry.name].append(rate)
            return f"{active} processes, {rate:,.0f} calls/s"

        interleave(entries, rounds, turn, step)
        readings += _readings(PROCESSES, entries, rates, {"processes": active})
    for process in crews.values():
        stage.children.stop(process)
    return readings


def crew(entry: Entry, count: int) -> Talker:
    """So many client processes behind one, connected; raises StageError."""
    process = entry.start_client("benchmarks.crew", str(count))
    answer = process.answer(START)
    if "error" in answer:
        raise StageError(answer["error"])
    return process
