"""Readings and what is made of them: pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipcd.demo.timing import percentile

At = Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Reading:
    """Figures of one peer at one point of one group of measurements, in one run.

    `at` is the point: {"size": 64}, {"way": "threads", "in_flight": 32}. `values` have their unit in their name.
    """

    group: str
    peer: str
    at: At
    values: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return {"group": self.group, "peer": self.peer, "at": dict(self.at), "values": dict(self.values)}

    @property
    def key(self) -> tuple[Any, ...]:
        return self.group, self.peer, tuple(sorted(self.at.items()))


Run = Sequence[Reading]


def from_json(data: Mapping[str, Any]) -> Reading:
    """What `as_json` gave."""
    return Reading(data["group"], data["peer"], data["at"], data["values"])


def select(run: Run, group: str, peer: str | None = None, **at: int | str) -> list[Reading]:
    """The readings of a group (and a peer) at all points that agree with `at`."""
    return [
        one
        for one in run
        if one.group == group
        and (peer is None or one.peer == peer)
        and all(one.at.get(name) == value for name, value in at.items())
    ]


def value(run: Run, name: str, group: str, peer: str, **at: int | str) -> float | None:
    """One value of the first such reading; None where there is none."""
    return next((one.values[name] for one in select(run, group, peer, **at) if name in one.values), None)


def best(run: Run, name: str, group: str, peer: str, **at: int | str) -> Reading | None:
    """The reading with the highest such value: of several ways to the same end, the one that a user would take."""
    found = [one for one in select(run, group, peer, **at) if name in one.values]
    return max(found, key=lambda one: one.values[name], default=None)


def ratio(part: float | None, whole: float | None) -> float | None:
    """None where either is missing, or nothing was measured."""
    return None if part is None or not whole else part / whole


def medians(runs: Sequence[Run]) -> list[Reading]:
    """Each value's median over the runs that have it, in the order of first appearance."""
    gathered: dict[tuple[Any, ...], list[Reading]] = {}
    for run in runs:
        for one in run:
            gathered.setdefault(one.key, []).append(one)
    merged = []
    for same in gathered.values():
        names = dict.fromkeys(name for one in same for name in one.values)
        values = {name: statistics.median(one.values[name] for one in same if name in one.values) for name in names}
        merged.append(Reading(same[0].group, same[0].peer, same[0].at, values))
    return merged


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None where none is."""
    there = [one for one in values if one is not None]
    return statistics.median(there) if there else None


@dataclass(slots=True)
class Samples:
    """The calls of several turns: how long each took, what CPU time they cost, and how many page faults."""

    ns: list[int] = field(default_factory=list)
    spent_ns: int = 0  # the turns' own length, the caller's work between the calls included
    client_cpu_ns: int = 0
    server_cpu_ns: int = 0
    client_faults: int = 0
    server_faults: int = 0

    def add(self, other: Samples) -> None:
        self.ns += other.ns
        self.spent_ns += other.spent_ns
        self.client_cpu_ns += other.client_cpu_ns
        self.server_cpu_ns += other.server_cpu_ns
        self.client_faults += other.client_faults
        self.server_faults += other.server_faults

    def summary(self) -> dict[str, float]:
        """Raises ValueError where there was no call."""
        ordered = sorted(self.ns)
        calls = len(ordered)
        return {
            "p50_us": percentile(ordered, 50) / 1000,
            "p99_us": percentile(ordered, 99) / 1000,
            "calls": calls,
            "calls_per_s": calls / (self.spent_ns / 1e9),
            "client_cpu_us": self.client_cpu_ns / calls / 1000,
            "server_cpu_us": self.server_cpu_ns / calls / 1000,
            "client_faults": self.client_faults / calls,
            "server_faults": self.server_faults / calls,
        }
