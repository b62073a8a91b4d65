"""How much all calls of the gateway may hold together. Pure."""

from __future__ import annotations

from ipcd import limits


class Budget:
    """`what` names the thing in the error's text."""

    def __init__(self, what: str, most: int) -> None:
        self.used = 0
        self._what = what
        self._most = most

    def take(self, amount: int) -> None:
        """Holds so much more.

        Raises:
            LimitReached: it would be too much; nothing was taken.
        """
        limits.check(self._what, self.used + amount, self._most)
        self.used += amount

    def give(self, amount: int) -> None:
        """Gives so much back."""
        self.used -= amount
