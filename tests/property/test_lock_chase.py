"""Circles of waits over several homes, against a plain graph of who waits for whom that sees all of them at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ipcd_client.primitives.errors import Deadlock

from ipcd.state import quota
from ipcd.state.chase import WAYS, Chase, Chases, Mark, Result, Step
from ipcd.state.lock import Action, Granted, Locks
from ipcd.state.lock_parts import Session, Wait

HOMES = ("a", "b", "c")
PARTIES = 5
OWNER = quota.local(1, 1)

# A lock: its home, and its name.
Place = tuple[str, str]
places = st.tuples(st.sampled_from(HOMES), st.sampled_from("xy"))
parties = st.integers(0, PARTIES - 1)


class World:
    """Homes, what is under way between them, and parties that do one thing at a time; and beside them what they hold
    and wait for, by party."""

    def __init__(self) -> None:
        self.locks = {home: Locks() for home in HOMES}
        self.chases = {home: Chases(home, self.locks[home]) for home in HOMES}
        self.sessions: dict[tuple[int, Place], Session] = {}
        self.waits: dict[int, tuple[Place, bool]] = {}
        self.holds: dict[Place, dict[int, bool]] = {}
        self.under_way: list[tuple[str, Chase]] = []
        self.failed: list[int] = []
        # Of a wait: whether it was in a circle when a chase of its began that was to confirm another.
        self.in_circle: dict[Wait, bool] = {}
        self.numbers = itertools.count(1)

    # -- what parties do --------------------------------------------------------------------------

    def acquire(self, party: int, place: Place, *, shared: bool, began: int) -> None:
        home, name = place
        locks = self.locks[home]
        locks.make(name)
        session = self.sessions.get((party, place))
        if session is None:
            called = next(self.numbers).to_bytes(16, "big")
            session = self.sessions[party, place] = locks.open(name, party, OWNER, called=called)
        elsewhere = [
            (at[0], other.name) for (whose, at), other in self.sessions.items() if whose == party and at[0] != home
        ]
        self.waits[party] = (place, shared)
        try:
            actions = locks.acquire(
                session, 1, 0, 0, shared=shared, wait=True, now=0.0, began=began, elsewhere=elsewhere
            )
        except Deadlock:
            assert self.is_in_circle(party)
            del self.waits[party]
            return
        self.carry_out(actions)

    def release(self, party: int, place: Place) -> None:
        session = self.sessions.pop((party, place))
        self.holds.get(place, {}).pop(party, None)
        self.carry_out(self.locks[place[0]].close(session))

    def give_up(self, party: int) -> None:
        place, _ = self.waits.pop(party)
        self.carry_out(self.locks[place[0]].give_up(self.sessions[party, place], 1, Deadlock("")))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            party = next(whose for (whose, _), session in self.sessions.items() if session is action.session)
            if isinstance(action, Granted):
                place, shared = self.waits.pop(party)
                self.holds.setdefault(place, {})[party] = shared
            else:
                self.waits.pop(party, None)

    # -- the plain graph --------------------------------------------------------------------------

    def waits_for(self, party: int) -> Iterator[int]:
        if party in self.waits:
            place, shared = self.waits[party]
            for holder, shares in self.holds.get(place, {}).items():
                if holder != party and not (shared and shares):
                    yield holder

    def is_in_circle(self, party: int) -> bool:
        found = set(self.waits_for(party))
        while more := {after for each in found for after in self.waits_for(each)} - found:
            found |= more
        return party in found

    # -- chases -----------------------------------------------------------------------------------

    def wait_of(self, party: int) -> Wait:
        return self.sessions[party, self.waits[party][0]].waits[1]

    def begin(self, party: int) -> None:
        self.do(self.waits[party][0][0], self.chases[self.waits[party][0][0]].begin(self.wait_of(party), self.id()))

    def id(self) -> bytes:
        return next(self.numbers).to_bytes(16, "big")

    def deliver(self, number: int) -> None:
        home, chase = self.under_way.pop(number)
        self.do(home, self.chases[home].take(chase))

    def do(self, home: str, result: Result) -> None:
        self.under_way += result.parts
        wait = result.again or result.failed
        if wait is None:
            return
        party = wait.session.party.key
        assert isinstance(party, int)
        if result.failed:
            assert self.in_circle[wait]
            self.failed.append(party)
            self.give_up(party)
            self.chases[home].over(wait)
        else:
            self.in_circle[wait] = self.in_circle.get(wait, False) or self.is_in_circle(party)
            self.do(home, self.chases[home].begin(wait, self.id()))

    def come_to_rest(self) -> None:
        """All that is under way arrives, and every wait has its chases, until nothing comes of that twice: the first
        time a wait may come to the end of the ways that it remembers, with ones that are no more."""
        rounds = 0
        while rounds < 2:
            failed = len(self.failed)
            rounds += 1
            for party in list(self.waits):
                if party in self.waits:
                    self.begin(party)
                while self.under_way:
                    self.deliver(0)
            if len(self.failed) != failed:
                rounds = 0


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(party=parties, place=places, shared=st.booleans(), began=st.integers(0, 3))
    def acquire(self, party: int, place: Place, shared: bool, began: int) -> None:
        """One that waits does nothing else."""
        if party not in self.world.waits:
            self.world.acquire(party, place, shared=shared, began=began)

    @precondition(lambda self: self.world.sessions)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        party, place = data.draw(st.sampled_from(list(self.world.sessions)))
        if party not in self.world.waits:
            self.world.release(party, place)

    @precondition(lambda self: self.world.waits)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.world.give_up(data.draw(st.sampled_from(list(self.world.waits))))

    @precondition(lambda self: self.world.waits)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.world.begin(data.draw(st.sampled_from(list(self.world.waits))))

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.world.deliver(data.draw(st.integers(0, len(self.world.under_way) - 1)))

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.world.under_way.pop(data.draw(st.integers(0, len(self.world.under_way) - 1)))

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """As a home that means harm may."""
        self.world.under_way.append(data.draw(st.sampled_from(self.world.under_way)))

    @rule()
    def come_to_rest(self) -> None:
        """Then there is no circle left."""
        self.world.come_to_rest()
        assert not [party for party in self.world.waits if self.world.is_in_circle(party)]

    @invariant()
    def waits_are_those_of_the_homes(self) -> None:
        waiting = [wait for locks in self.world.locks.values() for lock in locks.locks.values() for wait in lock.waits]
        assert {wait.session.party.key for wait in waiting} == self.world.waits.keys()

    def teardown(self) -> None:
        self.come_to_rest()


Machine.TestCase.settings = settings(stateful_step_count=60)
TestChases = Machine.TestCase


@given(
    st.integers(2, PARTIES).flatmap(
        lambda size: st.tuples(st.permutations(range(size)), st.lists(st.integers(0, 9), min_size=size, max_size=size))
    ),
    st.data(),
)
def test_of_a_circle_one_fails(drawn: tuple[list[int], list[int]], data: st.DataObject) -> None:
    """However its chases meet: the last to begin."""
    order, began = drawn
    size = len(order)
    world = World()
    ring: list[Place] = [(HOMES[number % 3], f"lock {number}") for number in range(size)]
    for party, place in enumerate(ring):
        world.acquire(party, place, shared=False, began=0)
    marks = {}
    for party in order:
        world.acquire(party, ring[(party + 1) % size], shared=False, began=began[party])
        wait = world.wait_of(party)
        marks[party] = (wait.began, ring[(party + 1) % size][0], wait.number)
    to_begin = data.draw(st.permutations(order))
    while to_begin or world.under_way:
        number = data.draw(st.integers(0, len(world.under_way) + bool(to_begin) - 1))
        if number < len(world.under_way):
            world.deliver(number)
        elif (party := to_begin.pop()) in world.waits:
            world.begin(party)
    world.come_to_rest()
    assert world.failed == [max(marks, key=lambda party: marks[party])]


def test_a_circle_that_never_was() -> None:
    """Its parts were there one after the other: the second chase does not come back."""
    world = World()
    for party, home in enumerate("cba"):
        world.acquire(party, (home, "x"), shared=False, began=0)
    world.acquire(1, ("a", "x"), shared=False, began=9)
    world.acquire(0, ("b", "x"), shared=False, began=0)
    wait = world.wait_of(1)
    world.begin(1)
    world.deliver(0)
    # It was seen at b to wait for the one with whose wait it began, and does so no more when it is waited for at c.
    world.give_up(0)
    world.acquire(2, ("c", "x"), shared=False, began=0)
    while world.under_way:
        world.deliver(0)
    assert world.in_circle == {wait: False}
    assert not world.failed


def test_a_part_that_comes_twice_is_no_second_chase() -> None:
    """What comes back once more was seen no later than before."""
    world = World()
    for party, home in enumerate("ba"):
        world.acquire(party, (home, "x"), shared=False, began=0)
    world.acquire(1, ("b", "x"), shared=False, began=0)
    world.acquire(0, ("a", "x"), shared=False, began=9)
    wait = world.wait_of(0)
    world.begin(0)
    while world.under_way[0][0] != "a":
        world.deliver(0)
    again = world.under_way[0]
    world.deliver(0)
    assert world.in_circle == {wait: True}
    world.under_way = [again]
    world.deliver(0)
    assert not world.failed


def test_no_chase_comes_back_where_none_goes_on() -> None:
    """Nor one that is called nothing."""
    world = World()
    for party, home in enumerate("ba"):
        world.acquire(party, (home, "x"), shared=False, began=0)
    world.acquire(1, ("b", "x"), shared=False, began=0)
    world.acquire(0, ("a", "x"), shared=False, began=9)
    for number in range(WAYS):
        if number:
            # What is remembered of the ways before is of no use any more.
            world.give_up(1)
            world.acquire(1, ("b", "x"), shared=False, began=0)
        world.under_way.clear()
        world.begin(0)
        world.deliver(0)
        came = world.under_way[:1]
        world.deliver(0)
        world.under_way = [(home, chase._replace(id=b"")) for home, chase in came]
    world.deliver(0)
    assert not world.failed


def test_what_is_held_in_another_way_is_not_what_was_held() -> None:
    """Somebody of the same name gives part of it back meanwhile, and may have given back all."""
    world = World()
    for party, home in enumerate("ab"):
        world.acquire(party, (home, "x"), shared=False, began=0)
    world.acquire(0, ("b", "x"), shared=False, began=0)
    world.acquire(1, ("a", "x"), shared=False, began=9)
    world.begin(1)
    while not world.in_circle:
        world.deliver(0)
    assert not world.locks["a"].release(world.sessions[0, ("a", "x")], 7, 1)
    # That was after the first chase, and before the second is back: it shows nothing, and the third confirms it.
    for _ in range(2):
        world.deliver(0)
    assert not world.failed
    while world.under_way:
        world.deliver(0)
    assert world.failed == [1]


def test_who_knows_no_name_finds_nothing() -> None:
    """Of a home that guesses: nothing is looked at, or kept."""
    world = World()
    world.acquire(0, ("a", "x"), shared=False, began=0)
    world.acquire(1, ("a", "x"), shared=False, began=0)
    mark = Mark(0, "a", world.wait_of(1).number)
    guessed = Chase(mark, world.id(), 9, [Step(world.id(), mark, b"")])
    assert world.chases["a"].take(guessed) == Result()
    assert not world.chases["a"]._seen
