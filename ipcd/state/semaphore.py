"""The counting semaphores of one node. Pure: time is an argument; verbs in, what has come of requests out.

A request is one operation on one or several semaphores, done all at once or not at all, as semop(2) does: its steps are
tried in their order, each on what those before it leave. Where it cannot go on it waits at one semaphore, the first
whose step does not go. At that semaphore nobody who came later takes anything before it, so that one who wants many is
not starved by those who want one. Elsewhere it reserves nothing, so that who waits for several keeps nobody from those
that are free. Who waits until there are none (a step of 0) takes nothing, and is neither held up nor holds up.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ipcd_client.primitives.errors import BadRequest, Full, Lost, NameTaken, NoSuchName, PrimitiveError

from ipcd import limits

# A semaphore never has more; POSIX's SEM_VALUE_MAX on Linux.
MOST: Final = (1 << 31) - 1


class Step(NamedTuple):
    """Takes (`delta` below 0), puts in (above), or waits until there are none (0)."""

    name: str
    delta: int


class Party(NamedTuple):
    """Who asks. `pidfd`: where the kernel has none, 0. `words`: which of its threads or tasks, empty where it did not
    say."""

    node: str
    pid: int
    pidfd: int = 0
    words: str = ""


class Place(NamedTuple):
    """Where a request waits: at this semaphore, until that has at least so many and nobody is before it; or, `exact`,
    until it has just so many, which is none unless an earlier step of the request changes it."""

    name: str
    needed: int
    exact: bool


@dataclass(slots=True, eq=False)
class Ticket:
    """A request, while it waits, and while what it did can be undone. To be read only."""

    number: int
    steps: tuple[Step, ...]
    party: Party
    since: float  # that it has waited, or held
    token: int = 0  # 0 while it waits
    taken: dict[str, int] = field(default_factory=dict)  # to be put back at its end, by semaphore
    place: Place | None = None  # where it waits
    lost: Lost | None = None  # why it holds no more


class Done(NamedTuple):
    """What has come of a request: granted, or an error. Lost: it had been granted before."""

    ticket: Ticket
    error: PrimitiveError | None = None


@dataclass(slots=True, eq=False)
class Thing:
    """One semaphore. To be read only."""

    initial: int
    value: int
    takers: list[Ticket] = field(default_factory=list)  # that wait here to take, those that came first at the front
    exact: dict[int, dict[int, Ticket]] = field(default_factory=dict)  # those that wait for just so many
    holders: dict[int, Ticket] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """How many requests wait here."""
        return len(self.takers) + sum(map(len, self.exact.values()))

    def all_waiting(self) -> list[Ticket]:
        """Those that wait here."""
        return [*self.takers, *(ticket for tickets in self.exact.values() for ticket in tickets.values())]


class Semaphores:
    """Of one node. Tokens begin after `token`."""

    def __init__(self, token: int = 0, waits: int = limits.SEMAPHORE_WAITS_HERE) -> None:
        self.token = token
        self._waits = waits
        self._number = 0
        self._things: dict[str, Thing] = {}
        self._waiting: dict[int, Ticket] = {}

    # -- semaphores -------------------------------------------------------------------------------

    def make(self, name: str, value: int) -> None:
        """There is one from now on.

        Raises:
            NameTaken: there was one, which began with another value.
            BadRequest: the value is too great.
        """
        check_value(value)
        thing = self._things.get(name)
        if thing is None:
            self._things[name] = Thing(value, value)
        elif thing.initial != value:
            raise NameTaken(f"the semaphore {name} was made with {thing.initial}, not {value}")

    def get(self, name: str) -> Thing | None:
        """One, if it is there."""
        return self._things.get(name)

    def all(self) -> Iterator[tuple[str, Thing]]:
        """By name."""
        yield from sorted(self._things.items())

    def waits(self) -> Iterable[Ticket]:
        """All that wait."""
        return self._waiting.values()

    def remove(self, name: str, now: float) -> list[Done]:
        """It is not there any more, neither for who waits for it nor for who has some of it. What these held of others
        is put back.

        Raises:
            NoSuchName: it was not there.
        """
        thing = self._thing(name)
        done: list[Done] = []
        changed: set[str] = set()
        for ticket in [each for each in self._waiting.values() if any(step.name == name for step in each.steps)]:
            changed.add(self._leave(ticket).name)
            done.append(Done(ticket, NoSuchName(f"the semaphore {name} has been removed")))
        holders = list(thing.holders.values())
        changed |= self._put_back(*holders)
        for ticket in holders:
            ticket.lost = Lost(f"the semaphore {name} has been removed")
            done.append(Done(ticket, ticket.lost))
        del self._things[name]
        self._settle(changed, now, done)
        return done

    # -- requests ---------------------------------------------------------------------------------

    def ask(self, steps: Sequence[Step], party: Party, now: float) -> tuple[Ticket, list[Done]]:
        """Does a request, or lets it wait. Until `commit` it can be undone, by `end`.

        Raises:
            NoSuchName: a semaphore is not there.
            Full: a semaphore would get more than it may have.
            LimitReached: too many wait at it already.
            BadRequest: a step takes or puts in more than there can be.
        """
        for name, delta in steps:
            self._thing(name)
            if abs(delta) > MOST:
                raise BadRequest(f"a semaphore has from 0 to {MOST}: {delta} is none of its steps")
        ticket = Ticket(self._number + 1, tuple(steps), party, now)
        done: list[Done] = []
        stuck = self._stuck(ticket)
        if stuck is not None:
            here = self._things[stuck.name]
            limits.check(f"requests that wait at the semaphore {stuck.name}", here.waiting + 1, self._waits)
        self._number += 1
        if stuck is not None:
            self._queue(ticket, stuck)
        else:
            changed = self._grant(ticket, now)
            done.append(Done(ticket))
            self._settle(changed, now, done)
        return ticket, done

    def commit(self, ticket: Ticket) -> None:
        """What it did, if it was granted, stays.

        Raises:
            NoSuchName: it was undone, as one of its semaphores has been removed since.
        """
        if ticket.lost is not None:
            raise NoSuchName(str(ticket.lost))
        for name in ticket.taken:
            self._things[name].holders.pop(ticket.number, None)
        ticket.taken.clear()

    def end(self, ticket: Ticket, now: float) -> list[Done]:
        """It waits no more, or what it did and did not give back yet is undone: as far as there is room, as
        semop(2) does it with SEM_UNDO."""
        done: list[Done] = []
        if ticket.number in self._waiting:
            changed = {self._leave(ticket).name}
        else:
            changed = self._put_back(ticket)
        self._settle(changed, now, done)
        return done

    def give_back(self, ticket: Ticket, steps: Sequence[Step], now: float) -> list[Done]:
        """Puts some of what it took back before its end.

        Raises:
            BadRequest: it does not hold so many.
            Full: there would be more than there may be.
        """
        back: dict[str, int] = {}
        for name, count in steps:
            if count <= 0:
                raise BadRequest(f"{count} of the semaphore {name} cannot be given back")
            back[name] = back.get(name, 0) + count
        for name, count in back.items():
            held = ticket.taken.get(name, 0)
            if held < count:
                raise BadRequest(f"{count} of the semaphore {name} cannot be given back: {max(held, 0)} are held")
            if self._things[name].value + count > MOST:
                raise Full(f"the semaphore {name} has at most {MOST}")
        for name, count in back.items():
            thing = self._things[name]
            thing.value += count
            ticket.taken[name] -= count
            if not ticket.taken[name]:
                del ticket.taken[name]
                del thing.holders[ticket.number]
        done: list[Done] = []
        self._settle(set(back), now, done)
        return done

    # -- inside -----------------------------------------------------------------------------------

    def _thing(self, name: str) -> Thing:
        thing = self._things.get(name)
        if thing is None:
            raise NoSuchName(f"there is no semaphore {name}")
        return thing

    def _stuck(self, ticket: Ticket) -> Place | None:
        """The first semaphore where it cannot go on; None if it can.

        Raises:
            Full: it would put in too many.
        """
        values: dict[str, int] = {}
        for name, delta in ticket.steps:
            thing = self._things[name]
            value = values.get(name, thing.value)
            before = value - thing.value  # what earlier steps do here
            if delta == 0 and value:
                return Place(name, -before, exact=True)
            if delta < 0 and (value < -delta or (thing.takers and thing.takers[0].number < ticket.number)):
                return Place(name, -delta - before, exact=False)
            values[name] = value + delta
            if value + delta > MOST:
                raise Full(f"the semaphore {name} has {value}, and at most {MOST}")
        return None

    def _grant(self, ticket: Ticket, now: float) -> set[str]:
        """Does it; which semaphores have changed."""
        self.token += 1
        ticket.token = self.token
        ticket.since = now
        changed: dict[str, int] = {}
        for name, delta in ticket.steps:
            changed[name] = changed.get(name, 0) + delta
        for name, delta in changed.items():
            if delta:
                thing = self._things[name]
                thing.value += delta
                thing.holders[ticket.number] = ticket
                ticket.taken[name] = -delta
        return {name for name, delta in changed.items() if delta}

    def _put_back(self, *tickets: Ticket) -> set[str]:
        """Undoes them, in one step: in which order would matter where one takes back what another puts back. Which
        semaphores have changed."""
        back: dict[str, int] = {}
        for ticket in tickets:
            for name, count in ticket.taken.items():
                back[name] = back.get(name, 0) + count
                del self._things[name].holders[ticket.number]
            ticket.taken.clear()
        for name, count in back.items():
            thing = self._things[name]
            thing.value = min(max(thing.value + count, 0), MOST)
        return set(back)

    def _queue(self, ticket: Ticket, place: Place) -> None:
        thing = self._things[place.name]
        ticket.place = place
        if place.exact:
            thing.exact.setdefault(place.needed, {})[ticket.number] = ticket
        else:
            bisect.insort(thing.takers, ticket, key=_number)
        self._waiting[ticket.number] = ticket

    def _leave(self, ticket: Ticket) -> Place:
        place = ticket.place
        assert place is not None
        thing = self._things[place.name]
        if place.exact:
            del thing.exact[place.needed][ticket.number]
            if not thing.exact[place.needed]:
                del thing.exact[place.needed]
        else:
            del thing.takers[bisect.bisect_left(thing.takers, ticket.number, key=_number)]
        del self._waiting[ticket.number]
        ticket.place = None
        return place

    def _due(self, name: str) -> Iterator[int]:
        """Those that wait at this semaphore and can go on there now."""
        thing = self._things.get(name)
        if thing is None:
            return
        if thing.takers:
            first = thing.takers[0]
            if first.place is not None and thing.value >= first.place.needed:
                yield first.number
        yield from thing.exact.get(thing.value, ())

    def _settle(self, changed: Iterable[str], now: float, done: list[Done]) -> None:
        """Grants what goes after these semaphores have changed, those that came first before others."""
        due = [number for name in changed for number in self._due(name)]
        heapq.heapify(due)
        while due:
            ticket = self._waiting.get(heapq.heappop(due))
            # Meanwhile another may have taken what it was due for, or it was granted.
            if ticket is None or ticket.place is None or ticket.number not in self._due(ticket.place.name):
                continue
            place = self._leave(ticket)
            # Who waited to take has made room for the next; of the others each goes on by itself.
            changed = set() if place.exact else {place.name}
            try:
                stuck = self._stuck(ticket)
            except Full as error:
                done.append(Done(ticket, error))
            else:
                if stuck is not None:
                    # It waits elsewhere from now on, where it has the place that its coming gives it.
                    self._queue(ticket, stuck)
                else:
                    changed |= self._grant(ticket, now)
                    done.append(Done(ticket))
            for name in changed:
                for number in self._due(name):
                    heapq.heappush(due, number)


def check_value(value: int) -> None:
    """Raises `BadRequest` where no semaphore can have so many."""
    if not 0 <= value <= MOST:
        raise BadRequest(f"a semaphore has from 0 to {MOST}, not {value}")


def _number(ticket: Ticket) -> int:
    return ticket.number
