"""Circles of waits for locks whose homes are several nodes: one home's part in finding them. Pure.

Each home knows who waits there for whom (lock.py). What makes one of such pieces is that whoever begins to wait says
what the other sessions of its party are called: names that are secrets of those sessions and their homes, so that
nobody can speak for a party that has not let it.

A chase goes from a wait backwards, along edges as with Chandy, Misra and Haas: to the homes where the party that waits
has sessions, there to those who wait for what these hold, on to the homes where their parties have sessions, and so on.
Where it comes to the wait with which it began, its way is a circle, or looks like one: the parts of it were not seen at
one time. So with the chase goes a digest of its way: of the waits, the sessions, and how often what these hold has
changed, none of which ever comes again. Where a second chase, begun after the first had come back, comes back by the
same way, each part of that was there throughout the time between, and so all were there at one time.

Every wait of a circle has its chases. Of all that find it, one fails: the last to begin, by the clocks of the homes.
That is the one that has closed the circle, unless their clocks differ by more than was between.

Another home is believed what it says of its own locks: that somebody for whom it can speak waits there for somebody who
has a session there. As the home of what they wait for it could make that so.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ipcd import limits
from ipcd.state.lock import Locks
from ipcd.state.lock_parts import Party, Wait

# Ways by which the chases of one wait have come back that are remembered.
WAYS: Final = 4


class Mark(NamedTuple):
    """A wait, as all nodes know it; the last to begin is the greatest. `began` in microseconds since the epoch."""

    began: int
    node: str
    number: int


class Step(NamedTuple):
    """Where a chase goes on: with those who wait for the party of a session. `last`: of the waits on the way there, the
    last to begin. `way`: its digest."""

    session: bytes
    last: Mark
    way: bytes


class Chase(NamedTuple):
    """A part of the chase `id`, which began with the wait `origin`. It may go over so many more nodes."""

    origin: Mark
    id: bytes
    hops: int
    steps: Sequence[Step]


class Result(NamedTuple):
    """What is to be done: parts of a chase for other nodes; a wait with which to begin another one at once; and one
    that is in a circle, and is the one to fail. `cost`: the waits that were looked at, and the sessions elsewhere that
    are asked about: each of those may be at another node."""

    parts: Sequence[tuple[str, Chase]] = ()
    again: Wait | None = None
    failed: Wait | None = None
    cost: int = 0


class _At(NamedTuple):
    party: Party
    last: Mark
    way: bytes


@dataclass(slots=True, eq=False)
class _Going:
    """The last chase that began with a wait, until it has come back; and the ways by which it and those before have."""

    id: bytes | None = None
    ways: set[bytes] = field(default_factory=set)


class Chases:
    """Of one home."""

    def __init__(self, node: str, locks: Locks) -> None:
        self._node = node
        self._locks = locks
        self._going: dict[Wait, _Going] = {}
        # The numbers of the waits here to which a chase has come; the chase that was heard of first comes first.
        self._seen: OrderedDict[tuple[Mark, bytes], set[int]] = OrderedDict()

    def begin(self, wait: Wait, id_: bytes) -> Result:
        """Begins a chase with a wait that is not over. `id_`: 16 bytes that nobody can guess, never the same. `over` is
        to be called once the wait is."""
        going = self._going.setdefault(wait, _Going())
        going.id = id_
        if len(going.ways) >= WAYS:
            going.ways.clear()
        mark = self._mark(wait)
        way = _digest(str(mark))
        chase = Chase(mark, id_, limits.LOCK_CHASE_HOPS, ())
        return self._go(chase, [_At(wait.session.party, mark, way)], _elsewhere(wait, mark, way))

    def over(self, wait: Wait) -> None:
        """No more chases begin with it."""
        self._going.pop(wait, None)

    def take(self, chase: Chase) -> Result:
        """A part of a chase has come from another node."""
        found = ((self._locks.named.get(step.session), step) for step in chase.steps[: limits.LOCK_CHASE_STEPS])
        at = [_At(session.party, step.last, step.way) for session, step in found if session is not None]
        return self._go(chase, at, []) if at else Result()

    def _go(self, chase: Chase, at: list[_At], asked: list[tuple[str, Step]]) -> Result:
        """On from these parties to all who wait for them here, in whatever many steps."""
        seen = self._seen_by(chase)
        parties = set[Party]()
        cost = 0
        for party, last, way in at:  # grows
            if party in parties:
                continue
            parties.add(party)
            for session in party.sessions:
                cost += len(session.lock.waits) if session.held else 0
                for wait in self._locks.waits_for(session):
                    if wait.number in seen or len(seen) >= limits.LOCK_CHASE_STEPS:
                        continue
                    mark = self._mark(wait)
                    way_here = _digest(way.hex(), session.name.hex(), str(session.changes), str(mark))
                    if mark == chase.origin:
                        result = self._came_back(wait, chase.id, last, way_here)
                        if result is not None:
                            return result._replace(cost=cost)
                    else:
                        seen.add(wait.number)
                        last_here = max(last, mark)
                        at.append(_At(wait.session.party, last_here, way_here))
                        asked += _elsewhere(wait, last_here, way_here)
        return Result(_parts(chase, asked), cost=cost + len(asked))

    def _came_back(self, wait: Wait, id_: bytes, last: Mark, way: bytes) -> Result | None:
        going = self._going.get(wait)
        if going is None or going.id != id_:
            return None  # another has begun since, or none was
        if last != self._mark(wait):
            return Result()  # that one's own chase finds it
        if way in going.ways:
            return Result(failed=wait)
        going.ways.add(way)
        going.id = None
        return Result(again=wait if len(going.ways) < WAYS else None)

    def _seen_by(self, chase: Chase) -> set[int]:
        key = (chase.origin, chase.id)
        if key not in self._seen:
            while len(self._seen) >= limits.LOCK_CHASES:
                self._seen.popitem(last=False)
            self._seen[key] = set()
        return self._seen[key]

    def _mark(self, wait: Wait) -> Mark:
        return Mark(wait.began, self._node, wait.number)


def _elsewhere(wait: Wait, last: Mark, way: bytes) -> list[tuple[str, Step]]:
    return [(node, Step(name, last, way)) for node, name in wait.elsewhere]


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _parts(chase: Chase, asked: list[tuple[str, Step]]) -> list[tuple[str, Chase]]:
    steps: dict[str, list[Step]] = {}
    if chase.hops:
        for node, step in asked:
            steps.setdefault(node, []).append(step)
    most = limits.LOCK_CHASE_STEPS
    return [(node, Chase(chase.origin, chase.id, chase.hops - 1, each[:most])) for node, each in steps.items()]
