"""What a session holds after acquisitions were given up, whatever was on its way then: no more than if they had not
been asked for. The daemon's locks (state/lock.py) are at the other end, and another session in the way."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

from hypothesis import given
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

    def we_take(self) -> set[int]:
        """The next answer; of which request."""
        if not self.to_us:
            return set()
        reply = self.to_us.popleft()
        self.ledger.answered(reply)
        return {reply.id}

    def all_arrives(self) -> None:
        while self.to_home or self.to_us:
            self.home_takes()
            self.we_take()


def bytes_of(held: Sequence[Segment]) -> dict[int, bool]:
    """By byte, whether it is shared."""
    return {byte: one.shared for one in held for byte in range(one.start, min(one.end, MOST + 2))}


ranges = st.tuples(st.integers(0, MOST - 1), st.integers(0, MOST)).map(
    lambda pair: (pair[0], min(pair[1], MOST - pair[0]))
)
# How often what is on the way gets on, at either end, before it is given up.
steps = st.lists(st.sampled_from("hu"), max_size=4)
asked = st.tuples(st.just("acquire"), ranges, st.booleans(), steps, st.booleans(), st.booleans())
others = st.tuples(st.sampled_from(["lock", "unlock"]), ranges)


@given(st.lists(asked | others, max_size=12))
def test_no_more_is_held_than_before(program: list[Any]) -> None:
    world = World()
    before = dict[int, bool]()
    relaxed = set[int]()
    for act in program:
        if act[0] != "acquire":
            word, (start, length) = act
            try:
                if word == "lock":
                    world.tell(world.locks.acquire(world.other, 1, start, length, shared=False, wait=False, now=0.0))
                else:
                    world.tell(world.locks.release(world.other, start, length))
            except IpcdError:
                pass
            continue
        _, (start, length), shared, moves, patient, settled = act
        range_ = lock_pb2.LockRange(start=start, length=length)
        acquire = lock_pb2.LockAcquire(range=range_, shared=shared)
        request = lock_pb2.LockHoldRequest(id=next(world.ids), acquire=acquire)
        world.ledger.asked(request)
        world.to_home.append(request)
        answered = set[int]()
        for move in moves:
            if move == "h":
                world.home_takes()
            else:
                answered |= world.we_take()
        if patient and request.id in answered:
            world.ledger.done(request.id)
            world.all_arrives()
            before, relaxed = bytes_of(world.session.held), set()
            assert bytes_of(world.ledger.held) == before
            continue
        world.to_home.extend(world.ledger.given_up(request.id, world.ids))
        if shared:
            # What was exclusive may be shared now.
            end = start + length if length else MOST + 2
            relaxed |= set(range(start, end))
        if not settled:
            # The next one is asked for while this one's answers are still on their way.
            continue
        world.all_arrives()
        after = bytes_of(world.session.held)
        assert bytes_of(world.ledger.held) == after
        assert after.keys() == before.keys()
        for byte, was_shared in before.items():
            assert after[byte] == was_shared or (byte in relaxed and after[byte])
        before, relaxed = after, set()
        # No answer is remembered that cannot come.
        assert not world.ledger._asked
