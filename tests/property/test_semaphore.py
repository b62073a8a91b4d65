"""The semaphores of a node against a model that keeps all in lists, and looks at all of them each time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipcd_client.primitives.errors import BadRequest, NameTaken, NoSuchName

from ipcd.state import semaphore
from ipcd.state.semaphore import Done, Party, Place, Semaphores, Step, Ticket

NAMES = ("a", "b", "c")
PARTY = Party("n", 1)

names = st.sampled_from(NAMES)
deltas = st.sampled_from((-3, -2, -1, -1, -1, 0, 1, 1, 2, 3))
steps = st.lists(st.builds(Step, names, deltas), min_size=1, max_size=3)


@dataclass
class Asked:
    """A request, as the model has it."""

    steps: list[Step]
    place: Place | None = None
    granted: bool = False
    taken: dict[str, int] = field(default_factory=dict)
    failed: bool = False


class Model:
    """Those that wait are in a list, in their order. A number of each, as the state machine's tickets have one."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.asked: dict[int, Asked] = {}

    def waiting(self) -> list[int]:
        return [number for number in sorted(self.asked) if self.asked[number].place is not None]

    def barred(self, number: int, name: str) -> bool:
        """Somebody who came earlier waits there to take."""
        places = [self.asked[other].place for other in self.waiting() if other < number]
        return any(place.name == name and not place.exact for place in places if place)

    def stuck(self, number: int) -> Place | None:
        left = dict(self.values)
        for name, delta in self.asked[number].steps:
            before = left[name] - self.values[name]
            if delta == 0 and left[name]:
                return Place(name, -before, exact=True)
            if delta < 0 and (left[name] + delta < 0 or self.barred(number, name)):
                return Place(name, -delta - before, exact=False)
            left[name] += delta
        return None

    def goes_on(self, number: int) -> bool:
        """Where it waits there is what it waits for."""
        place = self.asked[number].place
        assert place is not None
        value = self.values[place.name]
        if place.exact:
            return value == place.needed
        return value >= place.needed and not self.barred(number, place.name)

    def grant(self, number: int) -> None:
        asked = self.asked[number]
        asked.place, asked.granted = None, True
        for name, delta in asked.steps:
            self.values[name] += delta
            asked.taken[name] = asked.taken.get(name, 0) - delta
        asked.taken = {name: count for name, count in asked.taken.items() if count}

    def undo(self, *several: Asked) -> None:
        for name in self.values:
            back = sum(asked.taken.get(name, 0) for asked in several)
            self.values[name] = min(max(self.values[name] + back, 0), semaphore.MOST)
        for asked in several:
            asked.taken = {}

    def drop(self, number: int) -> None:
        """It is over: what it did is undone."""
        asked = self.asked[number]
        asked.place = None
        self.undo(asked)

    def settle(self) -> list[int]:
        """Who is granted now: of those that go on where they wait the first, until none does."""
        done: list[int] = []
        while going := [number for number in self.waiting() if self.goes_on(number)]:
            asked = self.asked[going[0]]
            asked.place = None
            asked.place = self.stuck(going[0])
            if asked.place is None:
                self.grant(going[0])
                done.append(going[0])
        return done


class Semaphored(RuleBasedStateMachine):
    """Everything that can be asked of semaphores, in any order."""

    @initialize(values=st.lists(st.integers(0, 3), min_size=3, max_size=3))
    def begin(self, values: list[int]) -> None:
        self.now = 0.0
        self.real = Semaphores(token=100)
        self.model = Model()
        self.tickets: dict[int, Ticket] = {}
        self.tokens: list[int] = [100]
        self.initial: dict[str, int] = {}
        for name, value in zip(NAMES, values, strict=True):
            self.make(name, value)

    @rule(name=names, value=st.integers(0, 3))
    def make(self, name: str, value: int) -> None:
        if self.initial.get(name, value) != value:
            with pytest.raises(NameTaken):
                self.real.make(name, value)
            return
        self.real.make(name, value)
        if name not in self.initial:
            self.initial[name] = self.model.values[name] = value

    @rule(wanted=steps, stays=st.booleans())
    def ask(self, wanted: list[Step], stays: bool) -> None:
        self.now += 1
        if any(step.name not in self.initial for step in wanted):
            with pytest.raises(NoSuchName):
                self.real.ask(wanted, PARTY, self.now)
            return
        ticket, done = self.real.ask(wanted, PARTY, self.now)
        number = ticket.number
        self.tickets[number] = ticket
        self.model.asked[number] = asked = Asked(wanted)
        asked.place = self.model.stuck(number)
        expected = []
        if asked.place is None:
            self.model.grant(number)
            expected = [number, *self.model.settle()]
        self.came(done, expected)
        if asked.granted and stays:
            self.real.commit(ticket)
            asked.taken = {}

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket = self.tickets.pop(number)
        self.model.drop(number)
        self.came(self.real.end(ticket, self.now), self.model.settle())
        assert not ticket.taken
        assert not ticket.place

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), name=names, count=st.integers(0, 3))
    def give_back(self, data: st.DataObject, name: str, count: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket, asked = self.tickets[number], self.model.asked[number]
        if count == 0 or asked.taken.get(name, 0) < count:
            with pytest.raises(BadRequest):
                self.real.give_back(ticket, [Step(name, count)], self.now)
            return
        asked.taken[name] -= count
        asked.taken = {each: left for each, left in asked.taken.items() if left}
        self.model.values[name] += count
        self.came(self.real.give_back(ticket, [Step(name, count)], self.now), self.model.settle())

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name not in self.initial:
            with pytest.raises(NoSuchName):
                self.real.remove(name, self.now)
            return
        gone, lost = [], []
        for number, asked in self.model.asked.items():
            if asked.place is not None and any(step.name == name for step in asked.steps):
                asked.place, asked.failed = None, True
                gone.append(number)
        for number, asked in self.model.asked.items():
            if name in asked.taken:
                lost.append(number)
        self.model.undo(*(self.model.asked[number] for number in lost))
        del self.model.values[name], self.initial[name]
        done = self.real.remove(name, self.now)
        told = len(gone) + len(lost)
        assert {one.ticket.number for one in done[: len(gone)]} == set(gone)
        assert {one.ticket.number for one in done[len(gone) : told]} == set(lost)
        assert all(one.error is not None for one in done[:told])
        self.came(done[told:], self.model.settle())

    def came(self, done: list[Done], expected: list[int]) -> None:
        """What has come of it is what the model says, in the same order."""
        assert [one.ticket.number for one in done] == expected
        for one in done:
            assert (one.error is not None) == self.model.asked[one.ticket.number].failed
            if one.error is None:
                self.tokens.append(one.ticket.token)
        assert self.tokens == sorted(set(self.tokens))

    @invariant()
    def they_are_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        assert {name: thing.value for name, thing in self.real.all()} == self.model.values
        assert {ticket.number: ticket.place for ticket in self.real.waits()} == {
            number: self.model.asked[number].place for number in self.model.waiting()
        }
        for name, thing in self.real.all():
            assert 0 <= thing.value <= semaphore.MOST
            assert {number: ticket.taken[name] for number, ticket in thing.holders.items()} == {
                number: asked.taken[name] for number, asked in self.model.asked.items() if name in asked.taken
            }
            assert thing.takers == sorted(thing.takers, key=lambda ticket: ticket.number)
        # Nobody waits who could go.
        for number in self.model.waiting():
            assert self.model.stuck(number) is not None


TestSemaphored = Semaphored.TestCase
