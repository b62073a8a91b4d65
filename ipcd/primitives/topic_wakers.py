"""Wakes whoever waits for news of a node's topics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from ipcd_client.loop.waiters import Waiters

from ipcd.primitives.topic_memory import Memories
from ipcd.state.outlet import Outlet
from ipcd.state.subscription import Interest, Pending, Subscription
from ipcd.state.topic import Board

# Messages for which a subscription does not have to be woken at once.
WAITING: Final = 8

Awaited = Subscription | Outlet | Pending


class Tellable(Protocol):
    """Who is to know what this node wants."""

    def changed(self, interests: Iterable[Interest]) -> None:
        """These have come, gone or changed."""


class Wakers:
    """Of those who wait now. `links` is told what this node wants, `memories` which messages nobody waits for."""

    links: Tellable

    def __init__(self, board: Board, memories: Memories) -> None:
        self._board = board
        self._memories = memories
        self._waiters: dict[Awaited, Waiters] = {}
        self._called: dict[Pending, Waiters] = {}
        self._due: dict[Subscription, None] = {}  # in this order

    @contextmanager
    def of(self, one: Awaited) -> Iterator[Waiters]:
        """Its news, for a while."""
        waiters = self._waiters[one] = Waiters()
        try:
            yield waiters
        finally:
            if self._waiters.get(one) is waiters:
                del self._waiters[one]

    def call(self, pending: Pending, waiters: Waiters) -> None:
        """Has those who wait know when a message has been given to all."""
        if pending.left:
            self._called[pending] = waiters

    def wake(self, one: Awaited) -> None:
        """There is news of other than the board's."""
        if isinstance(one, Subscription) and 0 < one.waiting < WAITING:
            if not self._due:
                asyncio.get_running_loop().call_soon(self._next)
            self._due[one] = None
        else:
            self._wake(one)

    def _next(self) -> None:
        """One in each of the loop's turns: what is published meanwhile comes first, and goes with what waits."""
        one = next(iter(self._due))
        del self._due[one]
        self._wake(one)
        if self._due:
            asyncio.get_running_loop().call_soon(self._next)

    def _wake(self, one: Awaited) -> None:
        waiters = self._waiters.get(one)
        if waiters is not None:
            waiters.progressed()

    def tell(self) -> None:
        """Passes on what the board has for others. To be called after each of its verbs."""
        board = self._board
        while board.news:
            one = board.news.popitem()[0]
            self.wake(one)
            called = self._called.pop(one, None) if isinstance(one, Pending) else None
            if called is not None:
                called.progressed()
        while board.over:
            self._memories.over(board.over.pop())
        if board.changed:
            changed = list(board.changed.values())
            board.changed.clear()
            self.links.changed(changed)
