"""Deadlines: on a wire as time left, inside a process as a point of its monotonic clock."""

from __future__ import annotations

from typing import Final, Protocol

# Sync grpcio's time_remaining() of a call without a deadline is a huge number, not None. This one is its.
FOREVER: Final = 9223372036.854775


class Expiring(Protocol):
    """Something with a deadline, of which a driver tells it."""

    def expire(self) -> None:
        """The deadline has passed."""


def at(timeout: float | None, now: float) -> float | None:
    """The point of the clock at which `timeout` seconds from now are over; None for no deadline."""
    return None if timeout is None else now + timeout


def left(deadline: float | None, now: float) -> float | None:
    """Seconds until the deadline, not below 0; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - now)


def sooner(one: float | None, other: float | None) -> float | None:
    """The earlier of two, either of which may be None for never."""
    if one is None:
        return other
    return one if other is None or one < other else other
