"""Locks: what hypothesis does not find at once, and bounds. The rest is in tests/property/test_lock.py."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from ipcd_client.primitives.errors import BadRequest, Deadlock, InUse, Lost, NoSuchName, TimedOut

from ipcd import limits
from ipcd.log import Log
from ipcd.primitives.tokens import Tokens
from ipcd.state import quota
from ipcd.state.lock import Action, Ended, Failed, Granted, Locks
from ipcd.state.lock_parts import Lock, Session

OWNER = quota.local(1, 1)


class World:
    def __init__(self) -> None:
        self.locks = Locks()
        self.ids = 0

    def session(self, name: str = "x", party: object = None) -> Session:
        self.locks.make(name)
        return self.locks.open(name, party, OWNER)

    def ask(self, session: Session, start: int = 0, length: int = 0, *, shared: bool = False) -> list[Action]:
        self.ids += 1
        return self.locks.acquire(session, self.ids, start, length, shared=shared, wait=True, now=0.0)


def granted(actions: list[Action]) -> list[Session]:
    return [action.session for action in actions if isinstance(action, Granted)]


def test_a_grant_that_makes_less_of_what_was_held_lets_those_before_it_in() -> None:
    world = World()
    first, second, third = world.session(), world.session(), world.session()
    world.ask(first, 0, 10)
    world.ask(second, 10, 10)
    assert world.ask(third, 0, 10, shared=True) == []
    # It shares more, once it may; and then what it held exclusively is free for those who share.
    assert world.ask(first, 0, 20, shared=True) == []
    assert granted(world.locks.release(second, 0, 0)) == [first, third]


def test_those_before_it_come_before_what_else_it_waits_for() -> None:
    """It is not held up by them, as one of them waits for it; but what it has come to hold is shared."""
    world = World()
    first, second, third = world.session(), world.session(), world.session()
    world.ask(first, 1, 1)
    world.ask(third, 2)
    assert world.ask(second, 0, 2) == []
    assert world.ask(second, shared=True) == []
    assert world.ask(third, shared=True) == []
    assert world.ask(third) == []
    assert granted(world.ask(third, 0, 1)) == [third]
    assert granted(world.locks.close(first)) == [third, second]


def test_a_party_in_a_circle_that_a_grant_has_closed_waits_no_more() -> None:
    """It waits twice at one time, as several threads under one name do."""
    world = World()
    one, other = world.session("x", "both"), world.session("y", "both")
    owner_of_x, owner_of_y = world.session("x", "holder of x"), world.session("y", "holder of y")
    world.ask(owner_of_x)
    world.ask(owner_of_y)
    assert world.ask(one) == []
    assert world.ask(other) == []
    # Waits for x behind the party, and not for it, so far.
    assert world.ask(world.session("x", "holder of y")) == []
    actions = world.locks.close(owner_of_x)
    assert granted(actions) == [one]
    (failed,) = [action for action in actions if isinstance(action, Failed)]
    assert failed.session is other
    assert isinstance(failed.error, Deadlock)


def test_a_thousand_who_wait_come_in_order() -> None:
    world = World()
    sessions = [world.session() for _ in range(1000)]
    for session in sessions:
        world.ask(session)
    for session, following in itertools.pairwise(sessions):
        assert granted(world.locks.close(session)) == [following]


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCK_WAITS_PER_LOCK", 3)
    monkeypatch.setattr(limits, "LOCK_WAITS_PER_SESSION", 2)
    monkeypatch.setattr(limits, "LOCK_RANGES_PER_SESSION", 2)
    monkeypatch.setattr(limits, "LOCK_RANGES_PER_LOCK", 3)
    world = World()
    first, second, third = world.session(), world.session(), world.session()
    world.ask(first, 0, 10)
    with pytest.raises(limits.LimitReached, match="2 waits of one session"):
        [world.ask(second) for _ in range(3)]
    with pytest.raises(limits.LimitReached, match="3 waits for the lock 'x'"):
        [world.ask(third) for _ in range(2)]
    world.locks.close(second)
    world.locks.close(third)
    # A range in the middle of another makes three of one.
    (refused,) = world.ask(first, 4, 1, shared=True)
    assert isinstance(refused, Failed)
    assert "2 ranges of one session" in str(refused.error)
    world.ask(first, 20, 1)
    with pytest.raises(limits.LimitReached, match="2 ranges of one session"):
        world.locks.release(first, 4, 1)
    assert [segment.end for segment in first.held] == [10, 21]
    other = world.session()
    world.ask(other, 30, 1)
    (refused,) = world.ask(other, 40, 1)
    assert isinstance(refused, Failed)
    assert "3 ranges of the lock 'x'" in str(refused.error)
    shares = quota.Shares("sessions with locks", 1, {})
    world.locks.sessions = shares
    world.session("y")
    with pytest.raises(limits.LimitReached, match="1 sessions with locks"):
        world.session("y")


def test_names() -> None:
    world = World()
    with pytest.raises(NoSuchName):
        world.locks.open("x", None, OWNER)
    with pytest.raises(NoSuchName):
        world.locks.remove("x", force=True)
    session, waiting = world.session(), world.session()
    world.ask(session)
    world.ask(waiting)
    with pytest.raises(InUse, match="has 2 that"):
        world.locks.remove("x", force=False)
    ended = world.locks.remove("x", force=True)
    assert {action.session for action in ended if isinstance(action, Ended)} == {session, waiting}
    assert world.locks.close(session) == world.locks.close(waiting) == []
    with pytest.raises(Lost):
        world.ask(session)
    with pytest.raises(Lost):
        world.locks.release(session, 0, 0)
    for name in "abc":
        world.locks.make(name)
    busy = world.session("a")
    world.locks.close(busy)
    assert list(world.locks.idle()) == ["b", "c", "a"]


def test_an_id_is_used_once_at_a_time() -> None:
    world = World()
    session, other = world.session(), world.session()
    world.ask(session)
    world.locks.acquire(other, 7, 0, 0, shared=False, wait=True, now=0.0)
    with pytest.raises(BadRequest, match="id 7 waits already"):
        world.locks.acquire(other, 7, 0, 0, shared=False, wait=True, now=0.0)
    assert "held by another" in world.locks.why(other, 7)
    with pytest.raises(TimedOut):
        world.locks.acquire(other, 8, 0, 0, shared=False, wait=False, now=0.0)
    assert isinstance(world.locks.locks["x"], Lock)


def test_tokens_begin_beyond_those_of_before(tmp_path: Path) -> None:
    now = [1000.0]
    tokens = Tokens(tmp_path, Log("a"), wall=lambda: now[0])
    first = tokens.first()
    assert first == 1000 * 10**6
    tokens.reserve(first + 5)
    now[0] = 900.0
    again = Tokens(tmp_path, Log("a"), wall=lambda: now[0]).first()
    assert again > first + 5
    tokens = Tokens(tmp_path, Log("a"), wall=lambda: now[0])
    last = tokens.first() + (1 << 20)
    tokens.reserve(last)
    assert Tokens(tmp_path, Log("a"), wall=lambda: now[0]).first() > last
    assert Tokens(None, Log("a"), wall=lambda: now[0]).first() == 900 * 10**6


def test_tokens_go_on_without_a_disk(tmp_path: Path) -> None:
    now = [1000.0]
    (tmp_path / "lock.token").write_text("no number")
    tokens = Tokens(tmp_path, Log("a"), wall=lambda: now[0])
    assert tokens.first() == 1000 * 10**6
    (tmp_path / "lock.token").unlink()
    # A directory where the file is written first: as good as a full disk.
    (tmp_path / "lock.new").mkdir()
    tokens.reserve(tokens.first())
    assert not (tmp_path / "lock.token").exists()
    (tmp_path / "lock.new").rmdir()
    tokens.reserve(tokens.first() + (1 << 20))
    assert int((tmp_path / "lock.token").read_text()) > 1000 * 10**6 + (1 << 20)
