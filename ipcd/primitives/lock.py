"""`ipcd.v1.Lock`: the locks that this node keeps."""

# ruff: noqa: N802, ARG002 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc.aio import EOF
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, TimedOut
from ipcd_client.primitives.segments import Segment
from ipcd_client.primitives.waiting import first_request, wait_of
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits
from ipcd.primitives.host import MAKE, READ, Keeper
from ipcd.primitives.lock_chases import Chaser, elsewhere, new_name
from ipcd.primitives.tokens import Tokens
from ipcd.servicer import status_of
from ipcd.state.lock import Action, Ended, Granted, Locks
from ipcd.state.lock_parts import Lock, Session

KIND: Final = "lock"
# Bytes of what is said of who calls.
_ABOUT: Final = 256


def add(keeper: Keeper, server: Dispatcher) -> LockServicer:
    """(host.Adds)"""
    servicer = LockServicer(keeper)
    lock_pb2_grpc.add_LockServicer_to_server(servicer, server)
    return servicer


class LockServicer(lock_pb2_grpc.LockServicer):
    """`clock` in seconds."""

    def __init__(self, keeper: Keeper, clock: Callable[[], float] = time.monotonic) -> None:
        self.node = keeper.node
        self._keeper = keeper
        self._clock = clock
        self._tokens = Tokens(keeper.state_dir, keeper.log)
        self._locks = Locks()
        self._calls: dict[Session, _Call] = {}
        self._chaser = Chaser(keeper, self._locks, self.give_up, clock)

    async def start(self) -> None:
        """Before the first call."""
        self._locks.token = self._tokens.first()
        self._chaser.start()

    async def close(self) -> None:
        """After the last one."""
        await self._chaser.close()

    # -- the calls --------------------------------------------------------------------------------

    async def Hold(self, requests: AsyncIterator[Any], context: CalledContext) -> None:
        """A session, for as long as the call lasts."""
        first = await first_request(context)
        if len(first.party.encode()) > limits.LOCK_PARTY:
            raise BadRequest(f"the name of a party has at most {limits.LOCK_PARTY} bytes")
        name = await self._made(context, first.name)
        caller = self._keeper.caller(context)
        party = (context.peer_identity.process, first.party) if first.party else None
        call = _Call(self, context, first.party, through=bool(self._keeper.called_for(context)))
        where = f"pid {call.pid} on node {caller.node}" if call.pid else f"a client of node {caller.node}'s gateway"
        call.session = session = self._locks.open(name, party, self._keeper.owner(context), where, new_name())
        self._calls[session] = call
        try:
            await call.run(first)
        finally:
            del self._calls[session]
            self.carry_out(self._locks.close(session))

    async def Look(self, request: lock_pb2.LockLookRequest, context: CalledContext) -> lock_pb2.LockLookReply:
        """Who holds what, and who waits."""
        if request.name:
            self._keeper.check(context, READ, KIND, self._keeper.here(KIND, request.name))
            return lock_pb2.LockLookReply(locks=[self._shown(self._found(request.name))])
        names = sorted(
            name for name in self._locks.locks if name > request.after and self._keeper.may(context, READ, KIND, name)
        )
        shown = [self._shown(self._locks.locks[name]) for name in names[: limits.LOCK_SHOWN]]
        return lock_pb2.LockLookReply(locks=shown, more=len(names) > len(shown))

    async def Remove(self, request: lock_pb2.LockRemoveRequest, context: CalledContext) -> lock_pb2.LockRemoveReply:
        """Removes a lock."""
        self._keeper.check(context, MAKE, KIND, self._keeper.here(KIND, request.name))
        self._remove(self._found(request.name).name, force=request.force)
        return lock_pb2.LockRemoveReply()

    # -- names ------------------------------------------------------------------------------------

    def _found(self, text: str) -> Lock:
        lock = self._locks.locks.get(self._keeper.here(KIND, text))
        if lock is None:
            raise self._keeper.missing(KIND, text)
        return lock

    async def _made(self, context: CalledContext, text: str) -> str:
        """The name of a lock, which is here from now on if it was not."""
        name = self._keeper.here(KIND, text)
        self._keeper.check(context, READ, KIND, name)
        if name not in self._locks.locks:
            try:
                await self._keeper.take(context, KIND, text)
            except limits.LimitReached:
                # A lock that nobody uses is nothing but a name, and may go.
                spare = self._keeper.directory.spare(KIND, self._locks.idle(), self._keeper.owner(context))
                if not spare:
                    raise
                self._remove(spare, force=False)
                await self._keeper.take(context, KIND, text)
            self._locks.make(name)
        return name

    def _remove(self, name: str, *, force: bool) -> None:
        self.carry_out(self._locks.remove(name, force=force))
        self._keeper.directory.drop(KIND, name)

    # -- sessions ---------------------------------------------------------------------------------

    def ask(self, session: Session, request: lock_pb2.LockHoldRequest) -> None:
        """Does what a session asks for.

        Raises:
            IpcdError: it may not be.
        """
        acquire = request.acquire
        wait = wait_of(acquire)
        named = elsewhere(acquire, self._keeper.node)
        self._tokens.reserve(self._locks.token)
        self.carry_out(
            self._locks.acquire(
                session,
                request.id,
                acquire.range.start,
                acquire.range.length,
                shared=acquire.shared,
                wait=wait != 0,
                now=self._clock(),
                began=time.time_ns() // 1000,
                elsewhere=named,
            )
        )
        waits = session.waits.get(request.id)
        if waits is not None:
            self._chaser.watch(waits)
            if wait is not None:
                self._calls[session].expire_in(wait, request.id)

    def release(self, session: Session, range_: lock_pb2.LockRange) -> None:
        """A session gives something back.

        Raises:
            IpcdError: it may not be.
        """
        self.carry_out(self._locks.release(session, range_.start, range_.length))

    def give_up(self, session: Session, id_: int, error: IpcdError | None) -> None:
        """An acquisition waits no longer; without an error as its time is over."""
        if error is None:
            error = TimedOut(f"the lock {session.lock.name!r} was not free in time: {self._locks.why(session, id_)}")
        self.carry_out(self._locks.give_up(session, id_, error))

    def carry_out(self, actions: list[Action]) -> None:
        """Tells those whom it concerns."""
        for action in actions:
            call = self._calls.get(action.session)
            if call is None:
                continue
            if isinstance(action, Ended):
                call.end(action.error)
            elif isinstance(action, Granted):
                action.session.since = self._clock()
                call.answer(action.id, granted=lock_pb2.LockGranted(token=action.token))
            else:
                call.fail(action.id, action.error)

    # -- what is shown ----------------------------------------------------------------------------

    def _shown(self, lock: Lock) -> lock_pb2.LockInfo:
        holders = (self._party(session, segment, session.since) for session in lock.holders for segment in session.held)
        waiters = (
            self._party(wait.session, Segment(wait.start, wait.end, wait.shared), wait.since) for wait in lock.waits
        )
        return lock_pb2.LockInfo(
            name=lock.name,
            node=self._keeper.node,
            token=lock.token,
            holders=itertools.islice(holders, limits.LOCK_SHOWN_EACH),
            waiters=itertools.islice(waiters, limits.LOCK_SHOWN_EACH),
            holder_count=lock.ranges,
            waiter_count=len(lock.waits),
        )

    def _party(self, session: Session, segment: Segment, since: float) -> lock_pb2.LockParty:
        call = self._calls[session]
        return lock_pb2.LockParty(
            node=call.caller.node,
            pid=call.pid,
            uid=call.caller.uid,
            range=lock_pb2.LockRange(start=segment.start, length=segment.length),
            shared=segment.shared,
            since=max(0.0, self._clock() - since),
            party=call.party,
        )


class _Call:
    """A session's call: what is to be said to it, and when its waits are over."""

    session: Session

    def __init__(self, servicer: LockServicer, context: CalledContext, party: str, *, through: bool) -> None:
        self.caller = Keeper.caller(context)
        # What comes through a gateway comes from its daemon.
        self.pid = 0 if through else self.caller.pid
        self.party = party
        self._servicer = servicer
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._answers: deque[lock_pb2.LockHoldReply] = deque()
        self._error: IpcdError | None = None
        self._named = False
        self._over = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self, first: lock_pb2.LockHoldRequest) -> None:
        """Until the session's requests end, or what it held is lost."""
        # What is granted to this session is often granted by another's end: so one task reads, and this one writes.
        reading = asyncio.create_task(self._read(first))
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while self._error is None:
                while self._answers:
                    await self._context.write(self._answers.popleft())
                    self._room.set()
                if reading.done():
                    reading.result()
                    return
                await self._news.wait()
                self._news.clear()
            raise self._error
        finally:
            for timer in self._timers.values():
                timer.cancel()
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # which was raised above, or does not matter any more

    async def _read(self, request: Any) -> None:
        while request is not EOF:
            self._handle(request)
            while len(self._answers) >= limits.LOCK_UNREAD:
                self._room.clear()
                await self._room.wait()
            request = await self._context.read()

    def _handle(self, request: lock_pb2.LockHoldRequest) -> None:
        act = request.WhichOneof("act")
        try:
            if act == "acquire":
                self._servicer.ask(self.session, request)
                return
            if act == "cancel":
                cancelled = CallFailed(grpc.StatusCode.CANCELLED, "the wait was cancelled")
                self._servicer.give_up(self.session, request.cancel, cancelled)
                return
            if act == "release":
                self._servicer.release(self.session, request.release)
        except IpcdError as error:
            self.fail(request.id, error)
            return
        self.answer(request.id, done=lock_pb2.LockDone())

    def expire_in(self, seconds: float, id_: int) -> None:
        """A wait has a time of its own."""
        self._timers[id_] = self._loop.call_later(seconds, self._servicer.give_up, self.session, id_, None)

    def answer(self, id_: int, **result: Any) -> None:
        """To the request of this id."""
        if (timer := self._timers.pop(id_, None)) is not None:
            timer.cancel()
        reply = lock_pb2.LockHoldReply(id=id_, **result)
        if not self._named:
            self._named = True
            reply.session.CopyFrom(lock_pb2.LockSession(node=self._servicer.node, secret=self.session.name))
        self._answers.append(reply)
        self._news.set()

    def fail(self, id_: int, error: IpcdError) -> None:
        """The same, with an error."""
        code, details = status_of(error) or (grpc.StatusCode.UNKNOWN, str(error))
        self.answer(id_, failed=lock_pb2.LockFailed(code=status.to_int(code), details=details))

    def end(self, error: IpcdError) -> None:
        """It has lost what it held."""
        self._error = error
        self._news.set()
