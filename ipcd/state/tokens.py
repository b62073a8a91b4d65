"""Introductions handed out to callers on other machines, until they come. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

from ipcd import limits

T = TypeVar("T")


class Tokens(Generic[T]):
    """What each token stands for. A token is good once, and for `ttl` seconds."""

    def __init__(
        self,
        ttl: float = limits.TOKEN,
        limit: int = limits.TOKENS,
        owner_limit: int = limits.TOKENS_PER_OWNER,
        user_limit: int = limits.TOKENS_PER_USER,
    ) -> None:
        self._ttl = ttl
        self._limit = limit
        self._owner_limit = owner_limit
        self._user_limit = user_limit
        # Insertion order is order of age, as all live equally long.
        self._open: dict[bytes, tuple[float, tuple[str, ...], T]] = {}
        self._owned: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, token: bytes, meaning: T, owner: str, now: float, user: str = "") -> None:
        """`token`: fresh random bytes. `owner`: who asked for it, and `user` whose that is; one alone cannot use all
        there are.

        Raises:
            LimitReached: too many are out.
        """
        self.expire(now)
        limits.check("introductions under way", len(self._open) + 1, self._limit)
        limits.check(f"introductions under way for {owner}", self._owned[owner] + 1, self._owner_limit)
        limits.check(f"introductions under way for {user}", self._owned[user] + 1, self._user_limit)
        owners = (owner, user) if user else (owner,)
        self._open[token] = (now + self._ttl, owners, meaning)
        self._owned.update(owners)

    def redeem(self, token: bytes, now: float) -> T | None:
        """What the token stands for; None if it was never issued, was used, or is too old."""
        self.expire(now)
        return self._pop(token) if token in self._open else None

    def expire(self, now: float) -> None:
        """Forgets what is too old."""
        while self._open:
            token, (until, _, _) = next(iter(self._open.items()))
            if until > now:
                return
            self._pop(token)

    def _pop(self, token: bytes) -> T:
        _, owners, meaning = self._open.pop(token)
        for owner in owners:
            self._owned[owner] -= 1
            if not self._owned[owner]:
                del self._owned[owner]
        return meaning
