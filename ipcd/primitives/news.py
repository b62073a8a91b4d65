"""Who waits for what by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from ipcd_client.loop.waiters import Waiters


@dataclass(slots=True)
class _Of:
    waiters: Waiters = field(default_factory=Waiters)
    users: int = 0


class News:
    """Of the names for which somebody waits, and of no others."""

    def __init__(self) -> None:
        self._of: dict[str, _Of] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._of))

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[Waiters]:
        """Of one, for a while."""
        news = self._of.setdefault(name, _Of())
        news.users += 1
        try:
            yield news.waiters
        finally:
            news.users -= 1
            if not news.users:
                del self._of[name]

    def tell(self, name: str) -> None:
        """There is some."""
        news = self._of.get(name)
        if news is not None:
            news.waiters.progressed()
