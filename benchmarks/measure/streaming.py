"""Messages of one stream, each way."""

from __future__ import annotations

import statistics
from collections import defaultdict

from benchmarks.measure.rounds import Step, interleave
from benchmarks.peers.base import DOWN, UP
from benchmarks.plan import LARGE, SMALL, Effort
from benchmarks.stage import Entry, Stage
from benchmarks.stats import Reading

GROUP = "streaming"

POINTS = tuple((direction, size) for size in (SMALL, LARGE) for direction in (DOWN, UP))


def turns(stage: Stage, effort: Effort) -> int:
    """How many steps there will be."""
    return (effort.rounds + 1) * len(POINTS) * sum(1 for entry in stage.present if entry.peer.streams)


def measure(stage: Stage, effort: Effort, step: Step) -> list[Reading]:
    """A reading for each peer, direction and size; of the rounds the median. A round is one stream: its begin and the
    word that the last message has come are in its time."""
    readings = []
    everyone = [entry for entry in stage.present if entry.peer.streams]
    for direction, size in POINTS:
        rates: defaultdict[str, list[float]] = defaultdict(list)

        def turn(
            entry: Entry,
            number: int,
            direction: str = direction,
            size: int = size,
            rates: dict[str, list[float]] = rates,
        ) -> str:
            command = {"do": "stream", "direction": direction, "size": size, "seconds": effort.turn}
            answer = entry.ask(command, effort.turn)
            rate = answer["messages"] / answer["seconds"]
            if number >= 0:
                rates[entry.name].append(rate)
            return f"{size} B {direction}, {rate:,.0f} messages/s"

        interleave(everyone, effort.rounds, turn, step)
        readings += [
            Reading(
                GROUP,
                entry.name,
                {"direction": direction, "size": size},
                {
                    "messages_per_s": statistics.median(rates[entry.name]),
                    "mb_per_s": statistics.median(rates[entry.name]) * size / 1e6,
                },
            )
            for entry in everyone
            if rates[entry.name] and not entry.missing
        ]
    return readings
