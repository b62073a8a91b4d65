"""`ipcd.v1.Semaphore`: the semaphores of this node. How they work: state/semaphore.py."""

# ruff: noqa: N802 - the methods are named as in the .proto

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from grpc.aio import EOF
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.pb.ipcd.v1 import semaphore_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Elsewhere, Empty, TimedOut
from ipcd_client.primitives.waiting import first_request, wait_of

from ipcd import limits
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper
from ipcd.primitives.tokens import Tokens
from ipcd.state.circles import Wait, circles
from ipcd.state.quota import Owner, Shares
from ipcd.state.semaphore import Done, Party, Semaphores, Step, Ticket, check_value

KIND: Final = "semaphore"


class SemaphoreServicer(semaphore_pb2_grpc.SemaphoreServicer):
    """`clock` in seconds."""

    def __init__(self, keeper: Keeper, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper = keeper
        self._clock = clock
        self._tokens = Tokens(keeper.state_dir, keeper.log, KIND)
        self._state = Semaphores()
        self._holds = Shares("held operations on semaphores", limits.SEMAPHORE_HOLDS, limits.SEMAPHORE_HOLDS_EACH)
        self._waits = Shares("calls that wait at semaphores", limits.SEMAPHORE_WAITS, limits.SEMAPHORE_WAITS_EACH)
        self._results: dict[Ticket, asyncio.Future[None]] = {}
        # The calls that hold, to be told that they do not any more.
        self._held: dict[Ticket, CalledContext] = {}

    async def start(self) -> None:
        """Before the first call: nothing but the tokens goes on from before."""
        self._state.token = self._tokens.first()

    async def close(self) -> None:
        """The calls have ended, and what they held with them."""

    # -- methods ----------------------------------------------------------------------------------

    async def Operate(self, request: pb.SemaphoreRequest, context: CalledContext) -> pb.SemaphoreReply:
        """One operation whose effect stays."""
        steps = await self._steps(request, context)
        if not steps:
            return pb.SemaphoreReply(values=self._values([Step(self._found(request.name), 0)]))
        ticket = await self._granted(request, steps, context)
        self._state.commit(ticket)
        return pb.SemaphoreReply(token=ticket.token, values=self._readable(steps, context))

    async def Hold(self, _requests: AsyncIterator[Any], context: CalledContext) -> None:
        """One that is undone when the call ends."""
        request = await first_request(context)
        steps = await self._steps(request, context)
        if not steps:
            raise BadRequest("Hold was called without an operation")
        owner = self._keeper.owner(context)
        self._holds.take(owner)
        try:
            ticket = await self._granted(request, steps, context)
            try:
                await self._hold(ticket, steps, context)
            finally:
                self._tell(self._state.end(ticket, self._clock()))
        finally:
            self._holds.give(owner)

    async def _hold(self, ticket: Ticket, steps: list[Step], context: CalledContext) -> None:
        if ticket.lost is not None:
            raise ticket.lost  # before it could be told that it was granted
        self._held[ticket] = context
        try:
            await context.write(pb.SemaphoreReply(token=ticket.token, values=self._readable(steps, context)))
            while (request := await context.read()) is not EOF:
                back = [Step(self._name_in(step, steps[0].name), step.delta) for step in _bounded(request)]
                self._tell(self._state.give_back(ticket, back, self._clock()))
                await context.write(pb.SemaphoreReply(token=ticket.token, values=self._values(back)))
        finally:
            del self._held[ticket]

    async def Look(self, request: pb.SemaphoreLookRequest, context: CalledContext) -> pb.SemaphoreLookReply:
        """What there is."""
        name = self._here(request.name)
        if not request.all:
            self._keeper.check(context, READ, KIND, name)
            self._found(request.name)
        shown = {
            each
            for each, _ in self._state.all()
            if (request.all or each == name) and self._keeper.may(context, READ, KIND, each)
        }
        found = circles(dict(self._state.all()), self._state.waits(), limits.SEMAPHORE_SHOWN)
        return pb.SemaphoreLookReply(
            node=self._keeper.node,
            semaphores=[self._info(each) for each in sorted(shown)],
            circles=[
                pb.SemaphoreCircle(waits=[self._wait(wait) for wait in circle])
                for circle in found
                # Names that the caller may not read are not shown by this either.
                if any(at in shown for _, at in circle)
                and all(self._keeper.may(context, READ, KIND, at) for _, at in circle)
            ],
        )

    async def Remove(self, request: pb.SemaphoreRemoveRequest, context: CalledContext) -> pb.SemaphoreRemoveReply:
        """It is gone for all."""
        name = self._here(request.name)
        self._keeper.check(context, MAKE, KIND, name)
        self._found(request.name)
        done = self._state.remove(name, self._clock())
        self._keeper.directory.drop(KIND, name)
        self._tell(done)
        return pb.SemaphoreRemoveReply()

    # -- names ------------------------------------------------------------------------------------

    def _here(self, text: str) -> str:
        return self._keeper.here(KIND, text)

    def _found(self, text: str) -> str:
        name = self._here(text)
        if self._state.get(name) is None:
            raise self._keeper.missing(KIND, text)
        return name

    async def _made(self, text: str, value: int, context: CalledContext) -> None:
        """There is one that begins with so many: made now if there is none."""
        name = self._here(text)
        if self._state.get(name) is None:
            check_value(value)
            await self._keeper.take(context, KIND, text)
        self._state.make(name, value)

    def _name_in(self, step: pb.SemaphoreOperation, name: str) -> str:
        """The semaphore of an operation: one of this node, as all of one request are."""
        if not step.name:
            return name
        with _of_one_node(step.name, name):
            return self._here(step.name)

    async def _steps(self, request: pb.SemaphoreRequest, context: CalledContext) -> list[Step]:
        """What is asked for, of semaphores that are here now and with which the caller may do it."""
        operations = _bounded(request)
        name = self._here(request.name)
        steps = [Step(self._name_in(operation, name), operation.delta) for operation in operations]
        # Before any is made. To be told how many a new one has is to read it.
        for step in steps or [Step(name, 0)]:
            self._keeper.check(context, PUBLISH if step.delta > 0 else READ, KIND, step.name)
        if request.HasField("value"):
            await self._made(request.name, request.value, context)
        for operation in operations:
            if operation.name and operation.HasField("value"):
                with _of_one_node(operation.name, name):
                    await self._made(operation.name, operation.value, context)
        # Nothing is awaited from here until they are done or queued.
        for step, operation in zip(steps, operations, strict=True):
            with _of_one_node(step.name, name):
                self._found(operation.name or request.name)
        return steps

    # -- waiting ----------------------------------------------------------------------------------

    async def _granted(self, request: pb.SemaphoreRequest, steps: list[Step], context: CalledContext) -> Ticket:
        """The request, once it is done. Who goes away meanwhile gets nothing."""
        wait = wait_of(request)
        caller = self._keeper.caller(context)
        party = Party(caller.node, caller.pid, caller.pidfd_id, request.party)
        self._tokens.reserve(self._state.token)
        ticket, done = self._state.ask(steps, party, self._clock())
        self._tell(done)
        if ticket.token:
            return ticket
        if wait == 0:
            place = self._place(ticket)
            self._tell(self._state.end(ticket, self._clock()))
            raise Empty(place)
        with self._waiting(ticket, self._keeper.owner(context)) as result:
            # One that came with the end of the time is taken, and not lost.
            await asyncio.wait({result}, timeout=wait)
            if not result.done():
                raise TimedOut(f"{wait:g} s are over, and {self._place(ticket)}")
            result.result()
        return ticket

    @contextmanager
    def _waiting(self, ticket: Ticket, owner: Owner) -> Iterator[asyncio.Future[None]]:
        result = asyncio.get_running_loop().create_future()
        try:
            self._waits.take(owner)
            try:
                self._results[ticket] = result
                yield result
            finally:
                self._results.pop(ticket, None)
                self._waits.give(owner)
        except BaseException:
            # Also where it was granted, and who asked has gone before it was told.
            self._tell(self._state.end(ticket, self._clock()))
            raise

    def _tell(self, done: Iterable[Done]) -> None:
        for ticket, error in done:
            result = self._results.get(ticket)
            if result is not None and not result.done():
                if error is None:
                    result.set_result(None)
                else:
                    result.set_exception(error)
            elif error is not None and ticket in self._held:
                self._held[ticket].give_up(error.code, error.details(), str(error))

    # -- shown ------------------------------------------------------------------------------------

    def _values(self, steps: Iterable[Step]) -> list[int]:
        things = [self._state.get(step.name) for step in steps]
        return [0 if thing is None else thing.value for thing in things]

    def _readable(self, steps: list[Step], context: CalledContext) -> list[int]:
        """The same for those who may read all of them, as whoever takes some may; others are told none."""
        read = {step.name for step in steps if step.delta <= 0}
        others = {step.name for step in steps} - read
        return self._values(steps) if all(self._keeper.may(context, READ, KIND, name) for name in others) else []

    def _place(self, ticket: Ticket) -> str:
        place = ticket.place
        assert place is not None
        thing = self._state.get(place.name)
        assert thing is not None
        ahead = 0 if place.exact else sum(1 for other in thing.takers if other.number < ticket.number)
        before = f", and {ahead} came before" if ahead else ""
        return f"the semaphore {place.name} has {thing.value} where {place.needed} is wanted{before}"

    def _info(self, name: str) -> pb.SemaphoreInfo:
        thing = self._state.get(name)
        assert thing is not None
        most = limits.SEMAPHORE_SHOWN
        waiters = heapq.nsmallest(most, thing.all_waiting(), key=_number)
        return pb.SemaphoreInfo(
            name=name,
            value=thing.value,
            initial=thing.initial,
            held=len(thing.holders),
            waiting=thing.waiting,
            holders=[self._party(each, each.taken[name]) for each in islice(thing.holders.values(), most)],
            waiters=[self._party(each, _wanted(each, name)) for each in waiters],
        )

    def _wait(self, wait: Wait) -> pb.SemaphoreWait:
        ticket, name = wait
        return pb.SemaphoreWait(who=self._party(ticket, _wanted(ticket, name)), name=name)

    def _party(self, ticket: Ticket, count: int) -> pb.SemaphoreParty:
        party = ticket.party
        seconds = max(0.0, self._clock() - ticket.since)
        return pb.SemaphoreParty(node=party.node, pid=party.pid, party=party.words, seconds=seconds, count=count)


def _bounded(request: pb.SemaphoreRequest) -> list[pb.SemaphoreOperation]:
    limits.check("steps of one operation on semaphores", len(request.operations), limits.SEMAPHORE_STEPS)
    limits.check("bytes of a semaphore's party", len(request.party.encode()), limits.SEMAPHORE_WORDS)
    return list(request.operations)


@contextmanager
def _of_one_node(name: str, first: str) -> Iterator[None]:
    """All of a request are where its first is: another that is elsewhere cannot be gone to."""
    try:
        yield
    except Elsewhere as error:
        if name == first:
            raise
        raise BadRequest(f"the semaphores of one operation are of one node: {name} is on {error.node}") from error


def _number(ticket: Ticket) -> int:
    return ticket.number


def _wanted(ticket: Ticket, name: str) -> int:
    return -sum(step.delta for step in ticket.steps if step.name == name and step.delta < 0)


def add(keeper: Keeper, server: Dispatcher) -> SemaphoreServicer:
    """Serves them. (host.Adds)"""
    servicer = SemaphoreServicer(keeper)
    semaphore_pb2_grpc.add_SemaphoreServicer_to_server(servicer, server)
    return servicer
