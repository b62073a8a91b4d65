"""A clock that goes only when told to."""

from __future__ import annotations


class FakeClock:
    """Stands in for time.monotonic: call it for the time, in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now += seconds
