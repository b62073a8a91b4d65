"""Locks against a model that goes through them byte by byte, and wait by wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipcd_client.primitives import segments
from ipcd_client.primitives.errors import Deadlock, TimedOut
from ipcd_client.primitives.segments import END, Segment

from ipcd.state import quota
from ipcd.state.lock import Action, Failed, Granted, Locks
from ipcd.state.lock_parts import Session

# Bytes that are told apart; the last one stands for all from there on.
BYTES = 6
LOCKS = ("a", "b")
SESSIONS = 6

ranges = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES)).map(
    lambda drawn: (drawn[0], drawn[1] if drawn[0] + drawn[1] < BYTES else 0)
)


def covered(start: int, length: int) -> range:
    """The bytes of a range."""
    return range(start, start + length if length else BYTES)


def as_segments(held: dict[int, bool]) -> list[tuple[int, int, bool]]:
    """What is held of each byte, as ranges that cannot be fewer."""
    found: list[tuple[int, int, bool]] = []
    for byte in sorted(held):
        end = END if byte == BYTES - 1 else byte + 1
        if found and found[-1][1:] == (byte, held[byte]):
            found[-1] = (found[-1][0], end, held[byte])
        else:
            found.append((byte, end, held[byte]))
    return found


@given(st.lists(st.tuples(ranges, st.sampled_from([True, False, None])), max_size=30))
def test_ranges_are_split_and_merged(changes: list[tuple[tuple[int, int], bool | None]]) -> None:
    held: list[Segment] = []
    model: dict[int, bool] = {}
    for (start, length), shared in changes:
        held = segments.put(held, *segments.bounds(start, length), shared)
        for byte in covered(start, length):
            model.pop(byte, None)
            if shared is not None:
                model[byte] = shared
        assert held == as_segments(model)


@dataclass(eq=False)
class Owner:
    """A session of the model: what it holds of each byte, shared or not."""

    lock: str
    party: int
    held: dict[int, bool] = field(default_factory=dict)


@dataclass(eq=False)
class Ask:
    owner: Owner
    id: int
    bytes: range
    shared: bool

    def conflicts(self, other: Owner) -> bool:
        return (
            other is not self.owner
            and other.lock == self.owner.lock
            and any(byte in other.held and not (self.shared and other.held[byte]) for byte in self.bytes)
        )


class Model:
    """All of it by the words of the rules, with no thought of time."""

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self.asks: list[Ask] = []
        self.granted: list[tuple[Owner, int, bool]] = []
        self.broken: list[tuple[Owner, int]] = []

    def waits_for(self, ask: Ask) -> Iterable[Owner]:
        return (owner for owner in self.owners if ask.conflicts(owner))

    def in_circle(self, ask: Ask) -> bool:
        def parties(found: Ask) -> set[int]:
            return {owner.party for owner in self.waits_for(found)}

        reached, before = parties(ask), set[int]()
        while reached != before:
            before = set(reached)
            for other in self.asks:
                if other.owner.party in before:
                    reached |= parties(other)
        return ask.owner.party in reached

    def grantable(self, ask: Ask, ahead: Iterable[Ask]) -> bool:
        if any(True for _ in self.waits_for(ask)):
            return False
        for other in ahead:
            same_lock = other.owner.lock == ask.owner.lock and other.owner is not ask.owner
            meet = bool(set(other.bytes) & set(ask.bytes)) and not (other.shared and ask.shared)
            if same_lock and meet:
                return any(owner.party == ask.owner.party for waiting in self.asks for owner in self.waits_for(waiting))
        return True

    def grant(self, ask: Ask) -> None:
        if ask in self.asks:
            self.asks.remove(ask)
        ask.owner.held.update(dict.fromkeys(ask.bytes, ask.shared))
        self.granted.append((ask.owner, ask.id, ask.shared))
        for other in [other for other in self.asks if other.owner.party == ask.owner.party]:
            if self.in_circle(other):
                self.asks.remove(other)
                self.broken.append((other.owner, other.id))

    def settle(self) -> None:
        again = True
        while again:
            again = False
            for index, ask in enumerate(self.asks):
                if self.grantable(ask, self.asks[:index]):
                    self.grant(ask)
                    again = True
                    break


class Machine(RuleBasedStateMachine):
    """`together`: whether sessions of one party there are, some of which wait at one time."""

    together = False

    def __init__(self) -> None:
        super().__init__()
        self.locks = Locks(token=100)
        self.model = Model()
        self.sessions: dict[Owner, Session] = {}
        self.ids = 0
        self.token = 100
        for name in LOCKS:
            self.locks.make(name)

    @initialize(parties=st.lists(st.integers(0, 3), min_size=SESSIONS, max_size=SESSIONS))
    def begin(self, parties: list[int]) -> None:
        for number, party in enumerate(parties):
            self.open(number, party if self.together else number)

    def open(self, number: int, party: int) -> None:
        name = LOCKS[number % len(LOCKS)]
        owner = Owner(name, party)
        self.model.owners.append(owner)
        self.sessions[owner] = self.locks.open(name, party, quota.local(1, party + 1), f"number {number}")

    def compare(self, actions: list[Action]) -> None:
        """What has come of a step, on both sides."""
        self.model.settle()
        mine = [(owner, id_) for owner, id_, _ in self.model.granted]
        granted = [action for action in actions if isinstance(action, Granted)]
        failed = [action for action in actions if isinstance(action, Failed)]
        assert sorted((one.id, id(one.session)) for one in granted) == sorted(
            (number, id(self.sessions[owner])) for owner, number in mine
        )
        assert sorted((one.id, id(one.session)) for one in failed) == sorted(
            (number, id(self.sessions[owner])) for owner, number in self.model.broken
        )
        exclusive = {number for _, number, shared in self.model.granted if not shared}
        for one in granted:
            # Each exclusive grant has the next token.
            self.token += one.id in exclusive
            assert one.token == self.token
        self.model.granted.clear()
        self.model.broken.clear()

    def pick(self, number: int) -> Owner:
        return self.model.owners[number % len(self.model.owners)]

    @rule(number=st.integers(0, SESSIONS - 1), asked=ranges, shared=st.booleans(), wait=st.booleans())
    def acquire(self, number: int, asked: tuple[int, int], shared: bool, wait: bool) -> None:
        owner = self.pick(number)
        if not self.together and any(ask.owner is owner for ask in self.model.asks):
            return  # it waits, and does nothing else
        self.ids += 1
        ask = Ask(owner, self.ids, covered(*asked), shared)
        session = self.sessions[owner]

        def act() -> list[Action]:
            return self.locks.acquire(session, ask.id, *asked, shared=shared, wait=wait, now=0.0)

        if self.model.grantable(ask, self.model.asks):
            self.model.grant(ask)
        elif not wait:
            with pytest.raises(TimedOut):
                act()
            return
        elif self.model.in_circle(ask):
            with pytest.raises(Deadlock):
                act()
            return
        else:
            self.model.asks.append(ask)
        self.compare(act())

    @rule(number=st.integers(0, SESSIONS - 1), given_back=ranges)
    def release(self, number: int, given_back: tuple[int, int]) -> None:
        owner = self.pick(number)
        for byte in covered(*given_back):
            owner.held.pop(byte, None)
        self.compare(self.locks.release(self.sessions[owner], *given_back))

    @precondition(lambda self: self.model.asks)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ask = data.draw(st.sampled_from(self.model.asks))
        self.model.asks.remove(ask)
        first, *others = self.locks.give_up(self.sessions[ask.owner], ask.id, TimedOut("late"))
        assert isinstance(first, Failed)
        assert first.id == ask.id
        self.compare(others)
        assert self.locks.give_up(self.sessions[ask.owner], ask.id, TimedOut("late")) == []

    @rule(number=st.integers(0, SESSIONS - 1), party=st.integers(0, 3))
    def die(self, number: int, party: int) -> None:
        """A session ends, whatever it does, and another one comes."""
        self.end(self.pick(number))
        number = self.ids = self.ids + 1
        self.open(number, party if self.together else SESSIONS + number)

    def end(self, owner: Owner) -> None:
        self.model.owners.remove(owner)
        self.model.asks = [ask for ask in self.model.asks if ask.owner is not owner]
        session = self.sessions[owner]
        actions = self.locks.close(session)
        self.compare(actions)
        assert self.locks.close(session) == []

    @invariant()
    def holds_the_same(self) -> None:
        for owner in self.model.owners:
            assert self.sessions[owner].held == as_segments(owner.held)
        for name in LOCKS:
            waiting = [(wait.session, wait.id) for wait in self.locks.locks[name].waits]
            asks = [ask for ask in self.model.asks if ask.owner.lock == name]
            assert waiting == [(self.sessions[ask.owner], ask.id) for ask in asks]
            ranges = [self.sessions[owner].held for owner in self.model.owners if owner.lock == name]
            assert self.locks.locks[name].ranges == sum(map(len, ranges))
        assert self.locks.waiting.used == len(self.model.asks)
        assert self.locks.ranges.used == sum(len(session.held) for session in self.live())
        assert self.locks.sessions.used == len(self.model.owners)

    @invariant()
    def nobody_holds_what_another_does(self) -> None:
        for name in LOCKS:
            for byte in range(BYTES):
                ways = [owner.held[byte] for owner in self.model.owners if owner.lock == name and byte in owner.held]
                assert all(ways) or len(ways) == 1

    @invariant()
    def nobody_waits_for_itself(self) -> None:
        for ask in self.model.asks:
            assert not self.model.in_circle(ask)

    def live(self) -> Iterator[Session]:
        return (self.sessions[owner] for owner in self.model.owners)

    def teardown(self) -> None:
        """Whoever does not wait ends, until nobody is left: nobody waits for ever."""
        while self.model.owners:
            waiting = {ask.owner.party for ask in self.model.asks}
            running = [owner for owner in self.model.owners if owner.party not in waiting]
            assert running
            for owner in running:
                self.end(owner)
        assert self.locks.idle()
        assert self.locks.waiting.used == self.locks.ranges.used == self.locks.sessions.used == 0


class Together(Machine):
    together = True


TestEachOnItsOwn = Machine.TestCase
TestPartiesOfSeveral = Together.TestCase
# Circles take several steps, and those after them are of no more interest than those before.
for _case in (TestEachOnItsOwn, TestPartiesOfSeveral):
    _case.settings = settings(stateful_step_count=30, deadline=None)
del _case
