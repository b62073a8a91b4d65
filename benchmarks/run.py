"""One run: every group that was asked for, on a stage of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import callers, first_call, idle, latency, memory, streaming, throughput
from benchmarks.measure.rounds import Step
from benchmarks.peers.registry import Peer
from benchmarks.plan import Effort
from benchmarks.stage import Stage, Tell, set_up
from benchmarks.stats import Reading, from_json


@dataclass(slots=True)
class Outcome:
    """What a run gave; the dicts are by peer."""

    readings: list[Reading] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # why it was not to be had
    failures: dict[str, list[str]] = field(default_factory=dict)  # what went wrong while it was measured
    taken: dict[str, str] = field(default_factory=dict)  # what its connection was, in its own words

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "readings": [one.as_json() for one in self.readings]}


def outcome_from_json(data: dict[str, Any]) -> Outcome:
    """What `Outcome.as_json` gave."""
    return Outcome(**{**data, "readings": [from_json(one) for one in data["readings"]]})


# Shows how far a group has come: given its name and how many steps it has.
Progress = Callable[[str, int], AbstractContextManager[Step]]

_Turns = Callable[[Stage, Effort], int]
_Measure = Callable[[Stage, Effort, Step], list[Reading]]

# In the order in which they are measured. Memory is read before the first and after the one with the largest messages.
_GROUPS: tuple[tuple[str, _Turns, _Measure], ...] = (
    ("latency", latency.turns, latency.measure),
    ("throughput", throughput.in_flight_turns, throughput.in_flight),
    ("streaming", streaming.turns, streaming.measure),
    ("processes", throughput.process_turns, throughput.processes),
    ("first-call", first_call.turns, first_call.measure),
    ("callers", callers.turns, callers.measure),
    ("idle", idle.turns, idle.measure),
)


def run(peers: Sequence[Peer], groups: Collection[str], effort: Effort, *, tell: Tell, progress: Progress) -> Outcome:
    """Measure; raises StageError where nothing can be, and KeyboardInterrupt. Everything started is ended."""
    outcome = Outcome()
    with set_up(peers, tell) as stage:
        outcome.missing = {entry.name: entry.missing for entry in stage.entries if entry.missing}
        outcome.taken = {entry.name: f"{entry.transport}: {entry.why}" for entry in stage.present}
        if "memory" in groups:
            memory.warm(stage)
            outcome.readings += memory.measure(stage, "small")
        for name, turns, measure in _GROUPS:
            if name not in groups:
                continue
            stage.revive()
            with progress(name, turns(stage, effort)) as step:
                outcome.readings += measure(stage, effort, step)
            if name == "latency" and "memory" in groups:
                outcome.readings += memory.measure(stage, "large")
        outcome.failures = {entry.name: entry.failures for entry in stage.entries if entry.failures and entry.transport}
    return outcome
