"""Locks: who holds which ranges of them, and who waits. Pure: time is an argument, what is to be answered is returned.

A session is an owner: what it holds never stands in its own way. A party is in whose name sessions hold and wait, such
as one thread of a program with several locks: circles of waits are looked for over parties and all locks.

What is granted, and to whom, is decided by two rules:

- Nobody gets what conflicts with what another session holds.
- Nobody gets what conflicts with what another session has been waiting for longer: so no flow of readers keeps a writer
  away. One exception: a party for whose ranges somebody waits is not held up by this rule, as those who wait for it may
  be the very ones it would wait for. Without the exception order would make circles where there are none; with it there
  are none that the ranges held do not make: in a circle with a wait for the sake of order, whoever waits so would
  be waited for by one that came later and waits so too, and that one by a still later one, without end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ipcd_client.errors import IpcdError
from ipcd_client.primitives import segments
from ipcd_client.primitives.errors import BadRequest, Deadlock, InUse, Lost, NoSuchName, TimedOut
from ipcd_client.primitives.segments import END, Segment

from ipcd import limits
from ipcd.state.lock_parts import Lock, Party, Session, Wait
from ipcd.state.quota import Owner, Part, Shares


class Granted(NamedTuple):
    """The acquisition `id` of a session."""

    session: Session
    id: int
    token: int


class Failed(NamedTuple):
    """The acquisition `id` of a session, which goes on without it."""

    session: Session
    id: int
    error: IpcdError


class Ended(NamedTuple):
    """A session has lost what it held: to be closed."""

    session: Session
    error: IpcdError


Action = Granted | Failed | Ended


class Locks:
    """Of one node. `token`: fencing tokens begin after it."""

    def __init__(self, token: int = 0) -> None:
        self.token = token
        self.locks: dict[str, Lock] = {}
        self.named: dict[bytes, Session] = {}
        self.waiting = Shares("waits for locks", limits.LOCK_WAITS, limits.LOCK_WAITS_EACH)
        self.ranges = Shares("ranges of locks that are held", limits.LOCK_RANGES, limits.LOCK_RANGES_EACH)
        self.sessions = Shares("sessions with locks", limits.LOCK_SESSIONS, limits.LOCK_SESSIONS_EACH)
        self._numbers = itertools.count(1)
        self._parties: dict[object, Party] = {}
        # The one that has been for longest comes first.
        self._idle: dict[str, None] = {}

    # -- locks ------------------------------------------------------------------------------------

    def make(self, name: str) -> None:
        """There is one of the name from now on, if there was none."""
        if name not in self.locks:
            self.locks[name] = Lock(name)
            self._idle[name] = None

    def remove(self, name: str, *, force: bool) -> list[Action]:
        """There is none of the name any more. `force`: also if there are sessions with it, who lose it.

        Raises:
            NoSuchName: there was none.
            InUse: there are.
        """
        lock = self._found(name)
        if lock.sessions and not force:
            raise InUse(f"the lock {name!r} has {len(lock.sessions)} that hold it or wait for it")
        del self.locks[name]
        self._idle.pop(name, None)
        lost = [Ended(session, Lost(f"the lock {name!r} was removed")) for session in lock.sessions]
        for session in list(lock.sessions):
            self._clear(session)
        return [*lost]

    def idle(self) -> Iterable[str]:
        """The locks that nobody uses, the one that has not been used for longest first. To be read at once."""
        return self._idle.keys()

    def _found(self, name: str) -> Lock:
        lock = self.locks.get(name)
        if lock is None:
            raise NoSuchName(f"there is no lock {name!r} here")
        return lock

    # -- sessions ---------------------------------------------------------------------------------

    def open(self, name: str, party: object, owner: Owner, about: str = "", called: bytes = b"") -> Session:
        """A session with a lock. `party`: a key that other sessions of the same party have too; None: it is on its own.
        `called`: its name, that no other has. To be closed.

        Raises:
            NoSuchName: there is no such lock.
            LimitReached: there are too many sessions.
        """
        lock = self._found(name)
        self.sessions.take(owner)
        key = object() if party is None else party
        whose = self._parties.setdefault(key, Party(key))
        session = Session(lock, whose, owner, about, called, Part(self.ranges, owner))
        if called:
            self.named[called] = session
        whose.sessions[session] = None
        lock.sessions.add(session)
        self._idle.pop(name, None)
        return session

    def close(self, session: Session) -> list[Action]:
        """It has ended, and gives back all."""
        if session.over:
            return []
        self._clear(session)
        lock = session.lock
        if not lock.sessions and self.locks.get(lock.name) is lock:
            self._idle[lock.name] = None
        return self._settled(lock)

    def _clear(self, session: Session) -> None:
        session.over = True
        for wait in list(session.waits.values()):
            self._forget(wait)
        self._hold(session, [])
        session.lock.sessions.discard(session)
        session.party.sessions.pop(session, None)
        self.named.pop(session.name, None)
        if not session.party.sessions:
            del self._parties[session.party.key]
        self.sessions.give(session.owner)

    # -- what sessions do -------------------------------------------------------------------------

    def acquire(
        self,
        session: Session,
        id_: int,
        start: int,
        length: int,
        *,
        shared: bool,
        wait: bool,
        now: float,
        began: int = 0,
        elsewhere: Sequence[tuple[str, bytes]] = (),
    ) -> list[Action]:
        """A session asks for a range. `wait`: it waits for it; otherwise it fails if it is not granted at once.
        `began`, `elsewhere`: as of `Wait`.

        Raises:
            BadRequest: there is no such range, or one with this id waits.
            Deadlock: it would wait for itself.
            TimedOut: it does not wait, and would have to.
            LimitReached: too many wait.
            Lost: it is over.
        """
        start, end = segments.bounds(start, length)
        _check(session)
        if id_ in session.waits:
            raise BadRequest(f"an acquisition with the id {id_} waits already")
        asked = Wait(session, id_, start, end, shared, now, next(self._numbers), began, elsewhere)
        lock = session.lock
        if not self._held_up(asked, lock.waits):
            changed = {lock: None}
            return [*self._grant(asked), *self._broken(session.party, changed), *self._settled(*changed)]
        if not wait:
            raise TimedOut(f"the lock {lock.name!r} is not free: {self._why(asked)}")
        if self._in_circle(asked):
            raise Deadlock(f"to wait for the lock {lock.name!r} would be to wait for oneself: {self._why(asked)}")
        limits.check(f"waits for the lock {lock.name!r}", len(lock.waits) + 1, limits.LOCK_WAITS_PER_LOCK)
        limits.check("waits of one session with a lock", len(session.waits) + 1, limits.LOCK_WAITS_PER_SESSION)
        self.waiting.take(session.owner)
        session.waits[id_] = asked
        lock.waits[asked] = None
        # Those whom it waits for are not held up by order any more.
        freed = {other.session.lock: None for owner in self._holding(asked) for other in owner.party.waits()}
        return self._settled(*freed) if freed else []

    def release(self, session: Session, start: int, length: int) -> list[Action]:
        """A session gives a range back, whatever it holds of it.

        Raises:
            BadRequest: there is no such range.
            LimitReached: it would hold too many.
            Lost: it is over.
        """
        start, end = segments.bounds(start, length)
        _check(session)
        self._hold(session, segments.put(session.held, start, end, None))
        return self._settled(session.lock)

    def give_up(self, session: Session, id_: int, error: IpcdError) -> list[Action]:
        """An acquisition waits no longer, if it still does."""
        wait = session.waits.get(id_)
        if wait is None:
            return []
        self._forget(wait)
        return [Failed(session, id_, error), *self._settled(session.lock)]

    def why(self, session: Session, id_: int) -> str:
        """What an acquisition waits for, in words."""
        wait = session.waits.get(id_)
        return self._why(wait) if wait is not None else ""

    def waits_for(self, session: Session) -> Iterator[Wait]:
        """The waits of others in whose way is what a session holds."""
        if session.held:
            for wait in session.lock.waits:
                if wait.session is not session and _conflict(session, wait):
                    yield wait

    # -- the rules --------------------------------------------------------------------------------

    def _holding(self, asked: Wait) -> Iterator[Session]:
        """Who holds what is in its way."""
        lock = asked.session.lock
        # With many readers, of whom none is in the way of another, this is what matters.
        for session in lock.writers if asked.shared else lock.holders:
            if session is not asked.session and _conflict(session, asked):
                yield session

    def _held_up(self, asked: Wait, ahead: dict[Wait, None]) -> bool:
        """Whether it has to wait, for what is held or behind those that have waited for longer."""
        if any(True for _ in self._holding(asked)):
            return True
        session = asked.session
        return any(
            other.session is not session and other.conflicts(asked.start, asked.end, asked.shared) for other in ahead
        ) and not self._waited_for(session.party)

    def _waited_for(self, party: Party) -> bool:
        """Whether somebody waits for what it holds."""
        return any(True for session in party.sessions for _ in self.waits_for(session))

    def _in_circle(self, asked: Wait) -> bool:
        """Whether its party would wait, over others, for itself."""
        party = asked.session.party
        if not party.holds():
            return False
        to_do, seen = [asked], set[Party]()
        while to_do:
            for session in self._holding(to_do.pop()):
                other = session.party
                if other is party:
                    return True
                if other not in seen:
                    seen.add(other)
                    to_do.extend(other.waits())
        return False

    def _settled(self, *locks: Lock) -> list[Action]:
        """Grants what can be after a change of these locks."""
        actions: list[Action] = []
        changed = dict.fromkeys(locks)
        while changed:
            lock = next(iter(changed))
            del changed[lock]
            if lock.waits:
                self._settle(lock, actions, changed)
        return actions

    def _settle(self, lock: Lock, actions: list[Action], changed: dict[Lock, None]) -> None:
        ahead: dict[Wait, None] = {}
        # Whoever comes after one that wants all for itself has to wait, unless it is let past.
        closed: Session | None = None
        for wait in list(lock.waits):
            if wait not in lock.waits:
                continue  # it was in a circle that a grant has closed
            session = wait.session
            shut = closed not in {None, session} and not session.party.holds()
            if shut or self._held_up(wait, ahead):
                ahead[wait] = None
                if closed is None and not wait.shared and (wait.start, wait.end) == (0, END):
                    closed = session
                continue
            less = wait.shared and any(not one.shared for one in session.held)
            self._forget(wait)
            actions += self._grant(wait)
            actions += self._broken(session.party, changed)
            if less:
                # It holds less than before, perhaps, for which those ahead may have waited: they come first.
                changed[lock] = None
                return

    def _broken(self, party: Party, changed: dict[Lock, None]) -> list[Action]:
        """What becomes of the other waits of a party, which has been granted something: others wait for it now, who may
        be those that it waits for."""
        actions: list[Action] = []
        for wait in list(party.waits()):
            lock = wait.session.lock
            changed[lock] = None
            if self._in_circle(wait):
                self._forget(wait)
                text = f"to wait for the lock {lock.name!r} is to wait for oneself: {self._why(wait)}"
                actions.append(Failed(wait.session, wait.id, Deadlock(text)))
        return actions

    # -- changes ----------------------------------------------------------------------------------

    def _grant(self, wait: Wait) -> list[Action]:
        session, lock = wait.session, wait.session.lock
        try:
            self._hold(session, segments.put(session.held, wait.start, wait.end, wait.shared))
        except limits.LimitReached as error:
            return [Failed(session, wait.id, error)]
        if not wait.shared:
            self.token += 1
            lock.token = self.token
        return [Granted(session, wait.id, self.token)]

    def _hold(self, session: Session, held: list[Segment]) -> None:
        lock = session.lock
        more = len(held) - len(session.held)
        if more > 0:
            limits.check("ranges of one session with a lock", len(held), limits.LOCK_RANGES_PER_SESSION)
            limits.check(f"ranges of the lock {lock.name!r}", lock.ranges + more, limits.LOCK_RANGES_PER_LOCK)
        session.ranges.set(len(held))
        lock.ranges += more
        session.changes += held != session.held
        session.held = held
        for sessions, is_in in ((lock.holders, bool(held)), (lock.writers, any(not one.shared for one in held))):
            if is_in:
                sessions[session] = None
            else:
                sessions.pop(session, None)

    def _forget(self, wait: Wait) -> None:
        """It waits no more."""
        del wait.session.waits[wait.id]
        del wait.session.lock.waits[wait]
        self.waiting.give(wait.session.owner)

    def _why(self, asked: Wait) -> str:
        holding = next(self._holding(asked), None)
        if holding is not None:
            return f"held by {holding.about or 'another'}"
        first = next(iter(asked.session.lock.waits), None)
        return f"{first.session.about or 'another'} has waited for it for longer" if first is not None else "it is free"


def _check(session: Session) -> None:
    if session.over:
        raise Lost(f"the session with the lock {session.lock.name!r} has ended")


def _conflict(session: Session, wait: Wait) -> bool:
    return any(one.conflicts(wait.start, wait.end, wait.shared) for one in session.held)
