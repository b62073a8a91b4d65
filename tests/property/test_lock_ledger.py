"""What a session holds after some of its users gave acquisitions up, whatever was on its way then, of theirs or of
others: no more than if they had not been asked for, and no less. The daemon's locks (state/lock.py) are at the other
end, and another session in the way."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives.lock_ledger import Ledger
from ipcd_client.primitives.segments import Segment

from ipcd.state import quota
from ipcd.state.lock import Action, Failed, Granted, Locks

MOST = 12  # bytes that are asked for


class World:
    """A session's two ends, and what is on the way between them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ids = itertools.count(1)
        self.to_home: deque[lock_pb2.LockHoldRequest] = deque()
        self.to_us: deque[lock_pb2.LockHoldReply] = deque()
        self.locks = Locks()
        self.locks.make("x")
        self.session = self.locks.open("x", "us", quota.local(1, 1))
        self.other = self.locks.open("x", "other", quota.local(1, 2))

    def home_takes(self) -> None:
        """The next request, if there is one. (ipcd/primitives/lock.py)"""
        if not self.to_home:
            return
        request = self.to_home.popleft()
        act = request.WhichOneof("act")
        try:
            if act == "cancel":
                self.tell(self.locks.give_up(self.session, request.cancel, IpcdError("cancelled")))
            elif act == "release":
                self.tell(self.locks.release(self.session, request.release.start, request.release.length))
                self.to_us.append(lock_pb2.LockHoldReply(id=request.id, done=lock_pb2.LockDone()))
            else:
                range_, shared = request.acquire.range, request.acquire.shared
                wait = not request.acquire.HasField("wait")
                asked = (request.id, range_.start, range_.length)
                self.tell(self.locks.acquire(self.session, *asked, shared=shared, wait=wait, now=0.0))
        except IpcdError:
            self.to_us.append(lock_pb2.LockHoldReply(id=request.id, failed=lock_pb2.LockFailed(code=1)))

    def tell(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if action.session is not self.session:
                continue
            if isinstance(action, Granted):
                self.to_us.append(
                    lock_pb2.LockHoldReply(id=action.id, granted=lock_pb2.LockGranted(token=action.token))
                )
            elif isinstance(action, Failed):
                self.to_us.append(lock_pb2.LockHoldReply(id=action.id, failed=lock_pb2.LockFailed(code=1)))

    def we_take(self) -> lock_pb2.LockHoldReply | None:
        """The next answer."""
        if not self.to_us:
            return None
        reply = self.to_us.popleft()
        self.ledger.answered(reply)
        return reply


def bytes_of(held: Sequence[Segment]) -> dict[int, bool]:
    """By byte, whether it is shared."""
    return {byte: one.shared for one in held for byte in range(one.start, min(one.end, MOST + 2))}


ranges = st.tuples(st.integers(0, MOST - 1), st.integers(0, MOST)).map(
    lambda pair: (pair[0], min(pair[1], MOST - pair[0]))
)
acquired = st.tuples(st.just("acquire"), ranges, st.booleans(), st.booleans())
unlocked = st.tuples(st.just("unlock"), ranges)
others = st.tuples(st.sampled_from(["other locks", "other unlocks"]), ranges)
# Which of those who ask for something.
users = st.tuples(st.sampled_from(["give up", "look"]), st.integers(0, 3))
moves = st.tuples(st.sampled_from(["home", "us", "all"]))


class Users:
    """Of one session: what they have asked for, and what they believe to hold, in the order of the answers."""

    def __init__(self) -> None:
        self.world = World()
        self.asking: dict[int, lock_pb2.LockHoldRequest] = {}
        self.answered: dict[int, bool] = {}
        self.believed: dict[int, lock_pb2.LockHoldRequest] = {}
        # Bytes: shared for one who gave up; of which more may be held, as others waited for them when one gave up.
        self.relaxed = set[int]()
        self.more = set[int]()

    def ask(self, request: lock_pb2.LockHoldRequest) -> None:
        self.world.ledger.asked(request)
        self.world.to_home.append(request)
        self.asking[request.id] = request

    def acquire(self, start: int, length: int, shared: bool, wait: bool) -> None:
        acquire = lock_pb2.LockAcquire(range=lock_pb2.LockRange(start=start, length=length), shared=shared)
        if not wait:
            acquire.wait = 0
        self.ask(lock_pb2.LockHoldRequest(id=next(self.world.ids), acquire=acquire))

    def unlock(self, start: int, length: int) -> None:
        range_ = lock_pb2.LockRange(start=start, length=length)
        self.ask(lock_pb2.LockHoldRequest(id=next(self.world.ids), release=range_))

    def take(self) -> None:
        reply = self.world.we_take()
        if reply is not None and reply.id in self.asking:
            self.answered[reply.id] = well = not reply.HasField("failed")
            if well:
                self.believed[reply.id] = self.asking[reply.id]

    def look(self, which: int) -> None:
        for id_ in [*self.answered][which : which + 1]:
            self.world.ledger.done(id_)
            del self.asking[id_], self.answered[id_]

    def give_up(self, which: int) -> None:
        for id_ in [id_ for id_, each in self.asking.items() if each.HasField("acquire")][which : which + 1]:
            gone = self.asking.pop(id_)
            self.answered.pop(id_, None)
            self.believed.pop(id_, None)
            self.world.to_home.extend(self.world.ledger.given_up(id_, self.world.ids))
            if gone.acquire.shared:
                self.relaxed |= bytes_in(gone)
            for other, request in self.asking.items():
                if request.HasField("acquire") and other not in self.answered:
                    self.more |= bytes_in(gone) & bytes_in(request)

    def all_arrives(self) -> None:
        while self.world.to_home or self.world.to_us:
            self.world.home_takes()
            self.take()

    def check(self) -> None:
        believed = dict[int, bool]()
        for request in self.believed.values():
            for byte in bytes_in(request):
                believed.pop(byte, None)
                if request.HasField("acquire"):
                    believed[byte] = request.acquire.shared
        assert bytes_of(self.world.ledger.held) == believed
        held = bytes_of(self.world.session.held)
        assert believed.keys() <= held.keys() <= believed.keys() | self.more
        for byte, shared in believed.items():
            assert held[byte] == shared or byte in (self.more if shared else self.relaxed)
        # No answer is remembered that cannot come.
        waiting = [id_ for id_ in self.asking if id_ not in self.answered]
        assert [*self.world.ledger._pending] == waiting


def bytes_in(request: lock_pb2.LockHoldRequest) -> set[int]:
    range_ = request.acquire.range if request.HasField("acquire") else request.release
    return set(range(range_.start, range_.start + range_.length if range_.length else MOST + 2))


WHOLE = ("acquire", (0, 12), False, True)
PART = ("acquire", (0, 4), False, True)
# What another is granted while one waits, or after one was granted all, who then gives up; and what another unlocks.
WAITS = [("other locks", (6, 2)), WHOLE, PART, ("give up", 0), ("home",), ("all",)]
AFTER = [WHOLE, ("home",), ("us",), PART, ("all",), ("give up", 0), ("all",)]
UNLOCKED = [PART, ("all",), ("look", 0), WHOLE, ("home",), ("unlock", (0, 4)), ("all",), ("give up", 0), ("all",)]


@example(WAITS)
@example(AFTER)
@example(UNLOCKED)
@given(st.lists(acquired | unlocked | users | moves | others, max_size=24))
def test_what_is_held_is_what_was_granted_to_those_who_have_not_given_up(program: list[Any]) -> None:
    users = Users()
    world = users.world
    for word, *rest in program:
        if word == "acquire":
            users.acquire(*rest[0], *rest[1:])
        elif word == "unlock":
            users.unlock(*rest[0])
        elif word == "give up":
            users.give_up(*rest)
        elif word == "look":
            users.look(*rest)
        elif word == "home":
            world.home_takes()
        elif word == "us":
            users.take()
        elif word == "all":
            users.all_arrives()
            users.check()
        else:
            start, length = rest[0]
            try:
                if word == "other locks":
                    world.tell(world.locks.acquire(world.other, 1, start, length, shared=False, wait=False, now=0.0))
                else:
                    world.tell(world.locks.release(world.other, start, length))
            except IpcdError:
                pass
    users.all_arrives()
    users.check()
