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
    settle: float = 1.0  # seconds after the last call, before what is idle is looked at

    def seconds_of(self, size: int) -> float:
        """Sizes in the middle are there for the shape of the curve; the two that have a figure to reach, and the
        largest, of which few go into a second, get all of it."""
        return self.seconds if size in (SMALL, LARGE) or size > LARGE else self.seconds / 2

    @property
    def turn(self) -> float:
        """Seconds of one turn where many calls or messages are under way."""
        return self.seconds / 2 / self.rounds

    @property
    def crowd_turn(self) -> float:
        """The same where there are more processes than CPUs: it has to be long beside the scheduler's slices."""
        return self.seconds / self.rounds


FULL: Final = Effort()
QUICK: Final = Effort(
    rounds=2, seconds=0.1, processes=(1, 4), first_calls=1, callers=40, caller_processes=2, idle_channels=20,
    idle_seconds=2.0, settle=0.3,
)  # fmt: skip
