"""The end of a pipe that reads: a server of its own, which writers call; on an event loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc.aio import EOF

from ipcd_client import aio
from ipcd_client.aio.methods import Unfit
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Lost
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_hold import Hold
from ipcd_client.primitives.pipe_inbox import REPORT, Inbox, Source
from ipcd_client.primitives.waiting import first_request

# Bytes of one writer that wait at a reader or are on their way to it, and of one message.
WINDOW: Final = 1 << 20
PIECE: Final = 256 << 10
# A writer hears of what was taken when it is so much (pipe_inbox.REPORT); or when nothing is left, but then not more
# often than after so many seconds.
PAUSE: Final = 0.005
# Writers of one reader: a pipe has no more ends.
WRITERS: Final = 256
# Seconds for writers to have again what a reader that closes has not read.
BACK: Final = 2.0


class Reader(pipe_pb2_grpc.PipeReaderServicer):
    """`open`, then `close`. What comes is in `inbox`; whoever takes it says so with `took`."""

    def __init__(self, place: LoopPlace, notify: Callable[[], None]) -> None:
        self.inbox = Inbox(notify)
        self._place = place
        self._key = secrets.token_bytes(16)
        # Some may not have said yet that they are writers.
        most = 2 * WRITERS
        self._server = aio.server(name=f"pipe.{secrets.token_hex(8)}", node=place.path, maximum_concurrent_rpcs=most)
        pipe_pb2_grpc.add_PipeReaderServicer_to_server(self, self._server)
        self._sources: set[Source] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hold: Hold | None = None
        self._closing = False

    async def open(self, wait: float | None) -> None:
        """Returns when there is a writer.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: there is none.
        """
        try:
            await self._server.start()
            server = self._server.registered_as
            assert server is not None
            address = pipe_pb2.PipeAddress(node=server.process.node, server=server.name, key=self._key)
            request = pipe_pb2.PipeOpen(side=pipe_pb2.PIPE_SIDE_READ, reader=address)
            self._hold = Hold(self._place, request, self.look)
            await self._hold.open(wait)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """What was not taken, the writers have again."""
        self._closing = True
        for source in self._sources:
            self._returned(source)
        if self._sources:
            await asyncio.wait({asyncio.ensure_future(self._idle.wait())}, timeout=BACK)
        if self._hold is not None:
            await self._hold.close()
        # Until the home knew, it has sent writers here: those have it again, too.
        await self._server.stop(BACK)
        await self._place.close()

    def look(self) -> None:
        """Whether anybody is left from whom something could come: those whose connection lives count, whatever the home
        says, as a daemon that was just started does not know them yet."""
        hold = self._hold
        if hold is not None:
            left = bool(self._sources)
            self.inbox.state(ended=hold.deserted and not left, error=None if left else hold.error)

    @staticmethod
    def _returned(source: Source) -> None:
        source.closed = True
        source.news.set()

    async def abandon(self) -> None:
        """The same."""
        await self.close()

    def took(self) -> None:
        """Something of what was taken is to be reported."""
        empty = not self.inbox.size
        for source in self._sources:
            taken = source.taken - source.reported
            # A writer that knows that a reader has nothing gives to that one first.
            if taken >= REPORT or (empty and taken):
                source.news.set()

    def _look_again(self) -> None:
        self.inbox.looked_at = False
        self.took()

    async def Give(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802, ARG002  as in the .proto
        """One writer's bytes."""
        try:
            key = (await first_request(context)).key
        except BadRequest as error:
            await context.abort(error.code, error.details())
            raise
        if not secrets.compare_digest(key, self._key):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "that is not the key of this reader")
        if len(self._sources) >= WRITERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this reader of the pipe {self._place.name} has {WRITERS} writers, which is the most",
            )
        source = Source()
        self._sources.add(source)
        self._idle.clear()
        if self._closing:
            self._returned(source)
        receiving = asyncio.get_running_loop().create_task(self._receive(source, context))
        receiving.add_done_callback(lambda task: _over(task, source))
        try:
            await self._report(source, context, receiving)
        finally:
            receiving.cancel()
            if not self._closing and not source.finished:
                self._cut(source, context)
            self._sources.discard(source)
            if not self._sources:
                self._idle.set()
            self.look()

    async def _receive(self, source: Source, context: Any) -> None:
        while (piece := await context.read()) is not EOF:
            if not self._accepted(source, piece.data):
                return
        source.finished = True

    def _accepted(self, source: Source, data: bytes) -> bool:
        """Whether so much might come."""
        source.received += len(data)
        if source.received - source.reported > WINDOW:
            return False
        if data:  # a piece costs more than its bytes: those without any would not be counted
            if not self.inbox.looked_at:
                self.inbox.looked_at = True
                asyncio.get_running_loop().call_later(PAUSE, self._look_again)
            self.inbox.put(source, data)
        return True

    async def _report(self, source: Source, context: Any, receiving: asyncio.Task[None]) -> None:
        await context.write(pipe_pb2.PipeCredit(window=WINDOW))
        while True:
            await source.news.wait()
            source.news.clear()
            if receiving.done() and not source.closed:
                receiving.result()
                if not source.finished:
                    await context.abort(
                        grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {WINDOW} bytes are on their way"
                    )
                return
            source.reported = source.taken
            await context.write(pipe_pb2.PipeCredit(taken=source.taken, closed=source.closed))
            if source.closed:
                return

    def _cut(self, source: Source, context: Any) -> None:
        """A writer's connection has ended, and it had not closed. If it has ended itself, that is the end of what it
        wrote; else something is missing."""
        why = context.why_cancelled()
        if why is None or not self._rest(source, context):
            self.inbox.tear(Lost(f"a writer of the pipe {self._place.name} was cut off: it has sent what it may not"))
        elif context.caller_lost() and not source.finished:
            self.inbox.tear(Lost(f"a writer of the pipe {self._place.name} is lost: {why}"))

    def _rest(self, source: Source, context: Any) -> bool:
        """Takes what has come, and waits behind the end of the connection. False: it might not come."""
        try:
            for piece in context.rest():
                if piece is EOF:
                    source.finished = True
                elif not self._accepted(source, piece.data):
                    return False
        except Unfit:
            return False
        return True


def _over(receiving: asyncio.Task[None], source: Source) -> None:
    if not receiving.cancelled():
        receiving.exception()  # whether anybody asks for it or not
    source.news.set()
