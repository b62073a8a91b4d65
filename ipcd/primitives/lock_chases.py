"""Chases the circles of waits for locks whose homes are several nodes: when a chase begins, and how its parts get from
node to node. What they mean: state/chase.py."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import lock_pb2, peer_pb2
from ipcd_client.primitives.errors import BadRequest, Deadlock

from ipcd import limits
from ipcd.primitives.host import Keeper
from ipcd.state.chase import Chase, Chases, Mark, Result, Step
from ipcd.state.lock import Locks
from ipcd.state.lock_parts import Session, Wait
from ipcd.state.quota import Key, Owner, Rate

# Bytes of what makes a chase another one than all others.
_ID: Final = 16


def new_name() -> bytes:
    """Of a session, that nobody can guess."""
    return secrets.token_bytes(limits.LOCK_NAME)


def elsewhere(acquire: lock_pb2.LockAcquire, node: str) -> list[tuple[str, bytes]]:
    """What the sessions of who acquires something are called at other nodes than this one.

    Raises:
        LimitReached: there are too many.
        BadRequest: they are no names.
    """
    limits.check("sessions elsewhere of one acquisition", len(acquire.elsewhere), limits.LOCK_ELSEWHERE)
    if any(len(each.secret) != limits.LOCK_NAME or len(each.node) > limits.NAME for each in acquire.elsewhere):
        raise BadRequest(f"the secret of a session is {limits.LOCK_NAME} bytes, and its node has a name")
    return [(each.node, each.secret) for each in acquire.elsewhere if each.node != node]


class Chaser:
    """Of one node. `give_up`: ends a wait with an error."""

    def __init__(
        self,
        keeper: Keeper,
        locks: Locks,
        give_up: Callable[[Session, int, IpcdError], None],
        clock: Callable[[], float],
    ) -> None:
        self._keeper = keeper
        self._chases = Chases(keeper.node, locks)
        self._give_up = give_up
        self._clock = clock
        # For the owners of the waits that they begin with, and for the nodes that they come from: their costs.
        self._begun = Rate("waits that are looked at", limits.LOCK_CHASE_BEGUN)
        self._taken = Rate("waits that are looked at", limits.LOCK_CHASE_TAKEN)
        self._timers: dict[Wait, asyncio.TimerHandle] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._under_way: Counter[str] = Counter()
        self._closed = False

    def start(self) -> None:
        """Hears of what linked nodes ask."""
        self._keeper.broker.on_chase = self._asked

    async def close(self) -> None:
        """Begins nothing more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    def watch(self, wait: Wait) -> None:
        """It has begun, and is looked at from time to time if others may wait for its party."""
        if wait.elsewhere or wait.session.party.holds():
            self._look_in(limits.LOCK_CHASE_FIRST, wait, limits.LOCK_CHASE_FIRST)

    def _look_in(self, seconds: float, wait: Wait, pause: float) -> None:
        self._timers[wait] = asyncio.get_running_loop().call_later(seconds, self._look, wait, pause)

    def _look(self, wait: Wait, pause: float) -> None:
        del self._timers[wait]
        if not _waits(wait):
            self._chases.over(wait)
            return
        pause = min(2 * pause, limits.LOCK_CHASE_LAST)
        # First: what is found now ends it. At other times than those that began together with it: where they are too
        # many to be asked about at once, it would always be the same ones that are left out.
        self._look_in(pause * random.uniform(0.5, 1.0), wait, pause)
        self._begin(wait)

    def _begin(self, wait: Wait) -> None:
        owner = wait.session.owner
        if self._may(self._begun, owner):
            result = self._chases.begin(wait, secrets.token_bytes(_ID))
            self._begun.wait(owner, self._clock(), result.cost)
            self._do(result)

    def _asked(self, node: str, request: peer_pb2.ChaseRequest) -> None:
        owner = (Key("node", node),)
        if not self._closed and self._may(self._taken, owner):
            result = self._chases.take(_chase(request))
            self._taken.wait(owner, self._clock(), result.cost + len(request.steps))
            self._do(result)

    def _may(self, rate: Rate, owner: Owner) -> bool:
        try:
            rate.check(owner, self._clock())
        except limits.LimitReached:
            # The wait has its own end, and another chase later.
            return False
        return True

    def _do(self, result: Result) -> None:
        # Whoever waits says at which nodes its party is, and may say what it likes.
        linked = frozenset(self._keeper.broker.links.names()) if result.parts else frozenset()
        for node, chase in result.parts:
            if node in linked and self._under_way[node] < limits.LOCK_CHASE_SENT:
                self._under_way[node] += 1
                task = asyncio.create_task(self._send(node, chase))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
        if result.again is not None:
            self._begin(result.again)
        if result.failed is not None:
            wait = result.failed
            at = f"{wait.session.lock.name!r} on node {self._keeper.node}"
            text = f"to wait for the lock {at} is to wait for oneself, over locks of other nodes"
            self._keeper.log.debug("circle of waits", lock=wait.session.lock.name, who=wait.session.about)
            self._give_up(wait.session, wait.id, Deadlock(text))

    async def _send(self, node: str, chase: Chase) -> None:
        try:
            async with asyncio.timeout(limits.LOCK_CHASE):
                await self._keeper.broker.links.chase(node, _request(chase))
        except (IpcdError, TimeoutError) as error:
            self._keeper.log.debug("a node was not asked who waits for locks", peer=node, reason=error)
        finally:
            self._under_way[node] -= 1
            if not self._under_way[node]:
                del self._under_way[node]


def _waits(wait: Wait) -> bool:
    return wait.session.waits.get(wait.id) is wait


def _chase(request: peer_pb2.ChaseRequest) -> Chase:
    steps = [Step(step.session, _mark(step.last), step.way[:_ID]) for step in request.steps[: limits.LOCK_CHASE_STEPS]]
    return Chase(_mark(request.origin), request.chase[:_ID], min(request.hops, limits.LOCK_CHASE_HOPS), steps)


def _mark(wait: peer_pb2.ChaseWait) -> Mark:
    return Mark(wait.began, wait.node[: limits.NAME], wait.number)


def _request(chase: Chase) -> peer_pb2.ChaseRequest:
    return peer_pb2.ChaseRequest(
        origin=_told(chase.origin),
        chase=chase.id,
        hops=chase.hops,
        steps=[peer_pb2.ChaseStep(session=step.session, last=_told(step.last), way=step.way) for step in chase.steps],
    )


def _told(mark: Mark) -> peer_pb2.ChaseWait:
    return peer_pb2.ChaseWait(node=mark.node, number=mark.number, began=mark.began)
