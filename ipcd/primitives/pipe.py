"""`ipcd.v1.Pipe`: who has the pipes of this node open. Bytes come here only from those who cannot serve."""

# ruff: noqa: N802, ARG002 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from grpc.aio import EOF
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest, Broken, Elsewhere, NoSuchName, TimedOut
from ipcd_client.primitives.waiting import first_request, wait_of

from ipcd import limits
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper
from ipcd.state.pipe import End, Pipes
from ipcd.state.quota import Owner, Shares

if TYPE_CHECKING:
    from ipcd_client.primitives.loop_pipe import Pipe

KIND: Final = "pipe"
_VERBS: Final[dict[int, str]] = {pipe_pb2.PIPE_SIDE_READ: READ, pipe_pb2.PIPE_SIDE_WRITE: PUBLISH}
# Bytes of one answer of Read.
_PIECE: Final = 64 << 10


def add(keeper: Keeper, server: Dispatcher) -> PipeServicer:
    """(host.Adds)"""
    servicer = PipeServicer(keeper)
    pipe_pb2_grpc.add_PipeServicer_to_server(servicer, server)
    return servicer


class PipeServicer(pipe_pb2_grpc.PipeServicer):
    """Of one node."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._pipes = Pipes()
        self._news: dict[int, asyncio.Event] = {}
        self._ends = Shares("open ends of pipes", limits.PIPE_ENDS, limits.PIPE_ENDS_OF)
        self._unnamed = Shares("pipes without names", limits.PIPES_UNNAMED, limits.PIPES_UNNAMED_OF)
        self._carried = Shares("pipes whose bytes the daemon carries", limits.PIPE_CARRIED, limits.PIPE_CARRIED_OF)
        self._owners: dict[str, Owner] = {}  # of pipes without names
        self._alarm: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Nothing is kept from before."""

    async def close(self) -> None:
        """The node stops."""
        if self._alarm is not None:
            self._alarm.cancel()

    # -- pipes ------------------------------------------------------------------------------------

    async def Make(self, request: pipe_pb2.PipeMake, context: CalledContext) -> pipe_pb2.PipeMade:
        """Makes one that stays, or one without a name."""
        name, node = naming.parse(KIND, request.name)
        if naming.is_unnamed(name):
            self._check_node(node)
            self._keeper.check(context, MAKE, KIND, name)
            owner = self._keeper.owner(context)
            self._unnamed.check(owner)
            self._pipes.make(name, asyncio.get_running_loop().time())
            self._unnamed.take(owner)
            self._owners[name] = owner
            self._watch()
        else:
            name = await self._keeper.take(context, KIND, request.name)
            self._pipes.make(name, 0.0)
        return pipe_pb2.PipeMade(name=name, node=self._keeper.node)

    async def Look(self, request: pipe_pb2.PipeName, context: CalledContext) -> pipe_pb2.PipeFacts:
        """Who has it open."""
        name = self._local(request.name)
        self._keeper.check(context, READ, KIND, name)
        facts = self._pipes.facts(name)
        facts.node = self._keeper.node
        return facts

    async def Remove(self, request: pipe_pb2.PipeName, context: CalledContext) -> pipe_pb2.PipeRemoved:
        """Takes it away."""
        name = self._local(request.name)
        self._keeper.check(context, MAKE, KIND, name)
        self._tell(self._pipes.remove(name))
        self._settle(name)
        return pipe_pb2.PipeRemoved()

    # -- ends -------------------------------------------------------------------------------------

    async def Open(self, requests: AsyncIterator[Any], context: CalledContext) -> None:
        """Holds an end open."""
        request = await first_request(context)
        verb = _VERBS.get(request.side)
        if verb is None:
            raise BadRequest("a pipe is opened for reading or for writing")
        with _taken(self._ends, self._keeper.owner(context)):
            wait = wait_of(request)
            blocking = wait != 0
            if request.side == pipe_pb2.PIPE_SIDE_READ or blocking or request.again:
                name = await self._made(context, verb, request.name)
            else:
                name = self._local(request.name)
                self._keeper.check(context, verb, KIND, name)
            address = request.reader if request.HasField("reader") else None
            try:
                end, told = self._pipes.open(name, request.side, address, blocking=blocking, again=request.again)
            except Exception:
                self._settle(name)
                raise
            event = self._news[end.number] = asyncio.Event()
            self._tell(told)
            closing = asyncio.ensure_future(context.read())
            closing.add_done_callback(lambda _: event.set())
            try:
                await self._held(end, event, closing, wait, context)
            finally:
                closing.cancel()
                del self._news[end.number]
                self._tell(self._pipes.close(end))
                self._settle(name)

    async def _held(
        self, end: End, event: asyncio.Event, closing: asyncio.Future[Any], wait: float | None, context: CalledContext
    ) -> None:
        """Until the end is closed: that is, the call's requests have ended."""
        try:
            async with asyncio.timeout(wait if not end.met else None):
                while not end.met and not closing.done() and self._pipes.has(end):
                    await event.wait()
                    event.clear()
        except TimeoutError:
            other = "writes" if end.side == pipe_pb2.PIPE_SIDE_READ else "reads"
            raise TimedOut(f"nobody {other} the pipe {end.pipe} within {wait:g} s") from None
        last = None
        while not closing.done():
            if not self._pipes.has(end):
                raise NoSuchName(f"the pipe {end.pipe} was removed")
            news = self._pipes.news(end)
            news.node = self._keeper.node
            if news != last:
                last = news
                await context.write(news)
                continue
            await event.wait()
            event.clear()

    async def _made(self, context: CalledContext, verb: str, text: str) -> str:
        """The name of a pipe that is kept here, from now on if need be."""
        name, node = naming.parse(KIND, text)
        self._keeper.check(context, verb, KIND, name)
        if name in self._pipes or naming.is_unnamed(name):
            self._check_node(node)
            return name
        return await self._keeper.take(context, KIND, text)

    def _local(self, text: str) -> str:
        name, node = naming.parse(KIND, text)
        self._check_node(node)
        return name

    def _check_node(self, node: str) -> None:
        if node not in {"", self._keeper.node}:
            raise Elsewhere(node)

    def _tell(self, ends: Iterable[End]) -> None:
        for end in ends:
            event = self._news.get(end.number)
            if event is not None:
                event.set()

    def _settle(self, name: str) -> None:
        """What belongs to a pipe goes with it."""
        if name in self._pipes:
            return
        self._keeper.directory.drop(KIND, name)
        owner = self._owners.pop(name, None)
        if owner is not None:
            self._unnamed.give(owner)

    # -- time -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        expiry = self._pipes.next_expiry()
        if expiry is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(expiry, self._expire)

    def _expire(self) -> None:
        self._alarm = None
        self._tell(self._pipes.expire(asyncio.get_running_loop().time()))
        for name in list(self._owners):
            self._settle(name)
        self._watch()

    # -- those who cannot serve -------------------------------------------------------------------

    async def Write(self, requests: AsyncIterator[Any], context: CalledContext) -> None:
        """Writes what comes, as a writer of this node's own."""
        request = await first_request(context)
        wait = wait_of(request)
        with _taken(self._carried, self._keeper.owner(context)):
            name, pipe = await self._own(context, PUBLISH, request.name, make=wait != 0)
            try:
                async with pipe.open_write(wait=wait) as writer:
                    await context.write(pipe_pb2.PipeWritten())
                    while request is not EOF:
                        if request.data:
                            writer.write(request.data)
                            await writer.drain()
                            await context.write(pipe_pb2.PipeWritten(bytes=len(request.data)))
                        request = await context.read()
            except BrokenPipeError as error:
                raise Broken(str(error)) from error
            finally:
                self._settle(name)

    async def Read(self, request: pipe_pb2.PipeRead, context: CalledContext) -> AsyncIterator[pipe_pb2.PipeData]:
        """Reads, as a reader of this node's own."""
        wait = wait_of(request)
        with _taken(self._carried, self._keeper.owner(context)):
            name, pipe = await self._own(context, READ, request.name, make=True)
            try:
                async with pipe.open_read(wait=wait) as reader:
                    yield pipe_pb2.PipeData()
                    while data := await reader.read(_PIECE):
                        yield pipe_pb2.PipeData(data=data)
            finally:
                self._settle(name)

    async def _own(self, context: CalledContext, verb: str, text: str, *, make: bool) -> tuple[str, Pipe]:
        """A pipe of this node, to be opened by this process itself; the caller may do that."""
        from ipcd_client.primitives.loop_pipe import Pipe  # a client's part, which not every node needs

        if make:
            name = await self._made(context, verb, text)
        else:
            name = self._local(text)
            self._keeper.check(context, verb, KIND, name)
        return name, Pipe(f"{name}@{self._keeper.node}", node=self._keeper.socket)


@contextmanager
def _taken(shares: Shares, owner: Owner) -> Iterator[None]:
    shares.take(owner)
    try:
        yield
    finally:
        shares.give(owner)
