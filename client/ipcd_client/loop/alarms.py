"""Deadlines of many calls on an event loop, with one timer for all of them.

Nearly every call ends long before its deadline, so what counts is what it costs to begin and to end one: an entry in a
dictionary, where a timer of its own would be an object, a copied context and its way through the loop's heap and out of
it again. The timer is that of the soonest deadline there was when it was set; it is not touched when that call ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Final

from ipcd_client.rpc.deadline import Expiring

# To look through all of them takes this share of the time at most: with very many, some are told a little late.
_SHARE: Final = 0.1


class Alarms:
    """Those on `loop`. `watch`: a clock in seconds, to find out how long it takes to look through them."""

    __slots__ = ("_at", "_due", "_timer", "_watch", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: Callable[[], float] = perf_counter) -> None:
        self.loop = loop
        self._watch = watch
        self._due: dict[Expiring, float] = {}
        self._at = inf  # when the timer goes off
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, who: Expiring, deadline: float) -> None:
        """Calls its `expire` at the deadline of loop.time(), unless `forget` comes first."""
        self._due[who] = deadline
        if deadline < self._at:
            self._set(deadline)

    def forget(self, who: Expiring) -> None:
        """The deadline is of no interest any more."""
        self._due.pop(who, None)

    def close(self) -> None:
        """Nobody is told of anything any more."""
        self._due = {}
        self._at = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self.loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        # Whoever is told may have new ones set meanwhile; the timer is set once, behind all of that.
        self._at = -inf
        begin = self._watch()
        now = self.loop.time()
        for who in [who for who, deadline in self._due.items() if deadline <= now]:
            if self._due.pop(who, None) is not None:
                who.expire()
        self._at = inf
        if self._due:
            pause = (self._watch() - begin) / _SHARE
            self._set(max(min(self._due.values()), self.loop.time() + pause))
