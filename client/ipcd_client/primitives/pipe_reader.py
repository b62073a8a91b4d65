"""The end of a pipe that reads: a server of its own, which writers call; on an event loop."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc.aio import EOF

from ipcd_client import aio
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_hold import Hold
from ipcd_client.primitives.waiting import first_request

# Bytes of one writer that wait at a reader or are on their way to it, and of one message.
WINDOW: Final = 256 << 10
PIECE: Final = 64 << 10
# A writer hears of what was taken when it is so much, or when the reader has to wait.
REPORT: Final = WINDOW // 4


class Inbox:
    """What has come and was not taken yet, for the loop that receives and the thread that reads. `notify` is called on
    the loop whenever something has changed."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.size = 0
        # There is nobody left from whom anything could come.
        self.ended = False
        self.error: Exception | None = None
        self._notify = notify
        self._lock = threading.Lock()
        self._pieces: deque[tuple[Source, memoryview]] = deque()

    def put(self, source: Source, data: bytes) -> None:
        """One piece more."""
        with self._lock:
            self._pieces.append((source, memoryview(data)))
            self.size += len(data)
        self._notify()

    def state(self, *, ended: bool, error: Exception | None) -> None:
        """Whether more can come."""
        if ended != self.ended or error is not self.error:
            self.ended, self.error = ended, error
            self._notify()

    def take(self, most: int) -> tuple[list[memoryview], list[tuple[Source, int]]]:
        """Up to so many bytes; and how many of them are whose."""
        parts: list[memoryview] = []
        taken: list[tuple[Source, int]] = []
        with self._lock:
            while most and self._pieces:
                source, data = self._pieces[0]
                part = data[:most]
                if len(part) == len(data):
                    self._pieces.popleft()
                else:
                    self._pieces[0] = (source, data[most:])
                most -= len(part)
                self.size -= len(part)
                parts.append(part)
                taken.append((source, len(part)))
        return parts, taken


class Source:
    """One writer, at a reader."""

    def __init__(self) -> None:
        self.received = 0
        self.taken = 0
        self.reported = 0
        self.closed = False
        self.report = asyncio.Event()


class Reader(pipe_pb2_grpc.PipeReaderServicer):
    """`open`, then `close`. What comes is in `inbox`; whoever takes it says so with `took`."""

    def __init__(self, place: LoopPlace, notify: Callable[[], None]) -> None:
        self.inbox = Inbox(notify)
        self._place = place
        self._key = secrets.token_bytes(16)
        self._server = aio.server(name=f"pipe.{secrets.token_hex(8)}", node=place.path)
        pipe_pb2_grpc.add_PipeReaderServicer_to_server(self, self._server)
        self._sources: set[Source] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hold: Hold | None = None

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
        for source in self._sources:
            source.closed = True
            source.report.set()
        if self._sources:
            await asyncio.wait({asyncio.ensure_future(self._idle.wait())}, timeout=2.0)
        if self._hold is not None:
            await self._hold.close()
        await self._server.stop(None)
        await self._place.close()

    def look(self) -> None:
        """Whether anybody is left from whom something could come: those whose connection lives count, whatever the home
        says, as a daemon that was just started does not know them yet."""
        hold = self._hold
        if hold is None:
            return
        gone = hold.removed or hold.error is not None or (hold.attached and not hold.news.others)
        self.inbox.state(ended=gone and not self._sources, error=hold.error)

    async def abandon(self) -> None:
        """The same."""
        await self.close()

    def took(self, taken: list[tuple[Source, int]]) -> None:
        """The program has so many bytes of these."""
        for source, count in taken:
            source.taken += count
            if source.taken - source.reported >= REPORT:
                source.report.set()

    def waits(self) -> None:
        """The program wants more, and there is nothing: a writer that knows that gives to this reader first."""
        for source in self._sources:
            if source.taken > source.reported:
                source.report.set()

    async def Give(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802, ARG002  as in the .proto
        """One writer's bytes."""
        try:
            key = (await first_request(context)).key
        except BadRequest as error:
            await context.abort(error.code, error.details())
            raise
        if not secrets.compare_digest(key, self._key):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "that is not the key of this reader")
        source = Source()
        self._sources.add(source)
        self._idle.clear()
        reporting = asyncio.get_running_loop().create_task(self._report(source, context))
        try:
            await self._receive(source, context, reporting)
        finally:
            reporting.cancel()
            self._sources.discard(source)
            if not self._sources:
                self._idle.set()
            self.look()

    async def _receive(self, source: Source, context: Any, reporting: asyncio.Task[None]) -> None:
        reading = asyncio.ensure_future(context.read())
        try:
            while True:
                await asyncio.wait({reading, reporting}, return_when=asyncio.FIRST_COMPLETED)
                if reporting.done():
                    return  # it has closed, and said so
                piece = reading.result()
                if piece is EOF:
                    return
                source.received += len(piece.data)
                if source.received - source.reported > WINDOW:
                    await context.abort(
                        grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {WINDOW} bytes are on their way"
                    )
                self.inbox.put(source, piece.data)
                reading = asyncio.ensure_future(context.read())
        finally:
            reading.cancel()

    async def _report(self, source: Source, context: Any) -> None:
        await context.write(pipe_pb2.PipeCredit(window=WINDOW))
        while True:
            await source.report.wait()
            source.report.clear()
            source.reported = source.taken
            await context.write(pipe_pb2.PipeCredit(taken=source.taken, closed=source.closed))
            if source.closed:
                return
