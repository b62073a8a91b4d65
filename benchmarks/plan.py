"""What is measured for how long: data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SIZES: Final = (64, 4 << 10, 64 << 10, 1 << 20, 16 << 20)  # bytes of payload
SMALL: Final = 64  # what is measured at one size only
LARGE: Final = 1 << 20  # what MB/s are measured with

# The groups, in the order in which they are measured: latency first, while all processes are fresh.
GROUPS: Final = ("latency", "memory", "throughput", "streaming", "processes", "first-call", "callers", "idle")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of it. Seconds are of one peer at one point, over all rounds."""

    rounds: int = 10
    seconds: float = 1.0
    sizes: tuple[int, ...] = SIZES
    in_flight: tuple[int, ...] = (1, 8, 32)
    processes: tuple[int, ...] = (1, 4, 16)
    first_calls: int = 3  # in one round
    callers: int = 1000
    caller_processes: int = 4
    idle_channels: int = 100
    idle_seconds: float = 30.0
    settle: float = 0.5  # seconds after the last call, before what is idle is looked at

    def turns_of(self, size: int) -> tuple[int, float]:
        """How many turns, and the seconds of one. Two sizes have a figure to reach; the others, which are there for the
        shape of the curve, get less. A turn has two calls at least: of the largest these alone take long."""
        if size in (SMALL, LARGE):
            return self.rounds, self.seconds / self.rounds
        rounds = self.rounds if size < LARGE else max(1, self.rounds // 2)
        return rounds, 0.4 * self.seconds / rounds

    @property
    def turn(self) -> float:
        """Seconds of one turn where many calls or messages are under way."""
        return self.seconds / 2 / self.rounds

    @property
    def crowd(self) -> tuple[int, float]:
        """How many turns where there are more processes than CPUs, and the seconds of one: few, but each long beside
        the scheduler's slices."""
        rounds = max(1, self.rounds // 2)
        return rounds, self.seconds / 2 / rounds


FULL: Final = Effort()
QUICK: Final = Effort(
    rounds=1, seconds=0.05, processes=(1, 4), first_calls=1, callers=40, caller_processes=2, idle_channels=20,
    idle_seconds=2.0, settle=0.2,
)  # fmt: skip
