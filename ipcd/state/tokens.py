"""Introductions handed out to callers on other machines, until they come. Pure: time is an argument."""

from __future__ import annotations

from typing import Generic, TypeVar

from ipcd import limits

T = TypeVar("T")


class Tokens(Generic[T]):
    """What each token stands for. A token is good once, and for `ttl` seconds."""

    def __init__(self, ttl: float = limits.TOKEN, limit: int = limits.TOKENS) -> None:
        self._ttl = ttl
        self._limit = limit
        # Insertion order is order of age, as all live equally long.
        self._open: dict[bytes, tuple[float, T]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, token: bytes, meaning: T, now: float) -> None:
        """`token`: fresh random bytes.

        Raises:
            LimitReached: too many are out.
        """
        self.expire(now)
        limits.check("introductions under way", len(self._open) + 1, self._limit)
        self._open[token] = (now + self._ttl, meaning)

    def redeem(self, token: bytes, now: float) -> T | None:
        """What the token stands for; None if it was never issued, was used, or is too old."""
        self.expire(now)
        entry = self._open.pop(token, None)
        return None if entry is None else entry[1]

    def expire(self, now: float) -> None:
        """Forgets what is too old."""
        while self._open:
            token, (until, _) = next(iter(self._open.items()))
            if until > now:
                return
            del self._open[token]
