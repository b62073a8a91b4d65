"""The bounds of one node: who may make it hold how much, and do how much. How they count: state/quota.py."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Final

from ipcd_client.errors import IpcdError

from ipcd import limits
from ipcd.state.quota import Key, Owner, Part, Rate, Shares

# Seconds between two looks at all connections of one owner that is at its limit, and at all there are.
_LOOK: Final = 0.05
_LOOK_AT_ALL: Final = 0.25


class Quotas:
    """`clock` in seconds. `descriptors`: how many the process may have; by default, what the system says."""

    def __init__(self, clock: Callable[[], float], descriptors: int = 0) -> None:
        self.clock = clock
        self.descriptors = descriptors or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.attached = Shares("attached connections", limits.ATTACHED, limits.ATTACHED_EACH)
        self.attaches = Rate("attaches", limits.ATTACHES)
        self.half_open = Shares("connections without preamble", limits.HALF_OPEN, limits.HALF_OPEN_EACH)
        self.dials = Rate("connections", limits.DIALS)
        self.calls = Shares("calls at the daemon", limits.CALLS, limits.CALLS_EACH)
        self.waiting = Shares("calls that wait for a server", limits.WAITING, limits.WAITING_EACH)
        self.watches = Shares("watches", limits.WATCHES, limits.WATCHES_EACH)
        self.servers = Shares("servers", limits.SERVERS, limits.SERVERS_EACH)
        self.catalog = Shares("bytes of servers' descriptions", limits.CATALOG, limits.CATALOG_EACH)
        self.names = Shares("named things", limits.NAMES, limits.NAMES_EACH)
        self.queued = Shares("bytes that wait", limits.QUEUED, limits.QUEUED_EACH)
        self.unread = Shares("descriptors that were not read", limits.UNREAD, limits.UNREAD_EACH)
        self.pace = Rate("frames", limits.PACE)
        self.pace_of_things = Rate("frames for named things", limits.PACE_OF_THINGS)
        self._connections = Shares("connections", 1 << 30, {})  # each is a descriptor
        self._guards: dict[Key, set[Guard]] = {}
        self._looked: dict[Key, float] = {}
        self._looked_at_all = -_LOOK_AT_ALL

    def check_descriptor(self, number: int, owner: Owner) -> None:
        """A connection of this owner has got the descriptor `number`. The system gives the lowest that is free, so that
        a high one says that there are few more.

        Raises:
            LimitReached: those that are left are for others.
        """
        spare = min(limits.DESCRIPTORS_SPARE, self.descriptors // 8)
        left = self.descriptors - number
        if left <= spare and (left <= spare // 2 or self._connections.is_largest(owner)):
            raise limits.LimitReached(f"the limit of {self.descriptors - spare} descriptors is reached")

    def guard(self, owner: Owner, unread: Callable[[], int] = int, pace: Rate | None = None) -> Guard:
        """Of a new connection, to be closed with it. `unread`: counts the descriptors that its peer has not read.
        `pace`: how fast it may go on; by default as at the daemon's own API."""
        guard = Guard(self, owner, unread, pace or self.pace)
        self._connections.take(owner)
        for key in owner[:1]:
            self._guards.setdefault(key, set()).add(guard)
        return guard

    def forget(self, guard: Guard) -> None:
        """Its connection has ended."""
        self._connections.give(guard.owner)
        for key in guard.owner[:1]:
            of_owner = self._guards[key]
            of_owner.discard(guard)
            if not of_owner:
                del self._guards[key]
                self._looked.pop(key, None)

    def look(self, owner: Owner) -> None:
        """Counts again what the connections of an owner have not read; and of all others, if it is at their limit."""
        now = self.clock()
        key = owner[0]
        if now - self._looked.get(key, -_LOOK) >= _LOOK:
            self._looked[key] = now
            for guard in self._guards.get(key, ()):
                guard.count_unread()
        try:
            self.unread.check(owner)
        except limits.LimitReached:
            if now - self._looked_at_all >= _LOOK_AT_ALL:
                self._looked_at_all = now
                for guards in self._guards.values():
                    for guard in guards:
                        guard.count_unread()


class Guard:
    """Watches over one connection. (loop.life.Guard)"""

    turn = limits.TURN

    def __init__(self, quotas: Quotas, owner: Owner, unread: Callable[[], int], pace: Rate) -> None:
        self.owner = owner
        self._pace = pace
        self._quotas = quotas
        self._queued = Part(quotas.queued, owner)
        self._unread = Part(quotas.unread, owner)
        self._unread_now = unread
        self._closed = False

    def took(self, frames: int, size: int) -> float:
        """(loop.life.Guard)"""
        return self._pace.wait(self.owner, self._quotas.clock(), frames + size / limits.COST_BYTES)

    def charge(self, cost: int) -> None:
        """What was asked costs as much as so many frames: the peer waits for it with its next ones."""
        self._pace.wait(self.owner, self._quotas.clock(), cost)

    def holds(self, size: int) -> IpcdError | None:
        """(loop.life.Guard)"""
        try:
            self._queued.set(0 if self._closed else size)
        except limits.LimitReached as error:
            return error
        return None

    def check_unread(self) -> None:
        """One descriptor more is about to be handed over.

        Raises:
            LimitReached: the peer does not read those that it has got.
        """
        try:
            self._unread.set(self._unread_now() + 1)
        except limits.LimitReached:
            # Others of its connections may have read theirs meanwhile.
            self._quotas.look(self.owner)
            self._unread.set(self._unread_now() + 1)

    def count_unread(self) -> None:
        """Counts again."""
        count = self._unread_now()
        if count < self._unread.amount:
            self._unread.set(count)

    def close(self) -> None:
        """The connection has ended."""
        if not self._closed:
            self._closed = True
            self._queued.set(0)
            self._unread.set(0)
            self._quotas.forget(self)
