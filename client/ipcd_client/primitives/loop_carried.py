"""Ends of pipes whose bytes the pipe's home carries, for programs that have a channel to a gateway only: what
pipe_reader.py and pipe_writer.py are otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import EOF

from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import Broken, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_inbox import REPORT, Inbox, Source
from ipcd_client.primitives.waiting import loop_first
from ipcd_client.rpc.failure import CallFailed


class CarriedReader:
    """(pipe_reader.Reader)"""

    def __init__(self, place: LoopPlace, notify: Callable[[], None]) -> None:
        self.inbox = Inbox(notify)
        self._place = place
        self._source = Source()
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    async def open(self, wait: float | None) -> None:
        """(Reader)"""
        await self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, wait))
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """(Reader)"""
        if self._call is not None:
            self._call.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._place.close()

    def took(self) -> None:
        """(Reader)"""
        self._room.set()

    async def _begin(self, stub: Any, wait: float | None) -> None:
        self._call = stub.Read(pipe_pb2.PipeRead(name=self._place.text, wait=wait))
        await loop_first(self._call, wait)

    async def _follow(self) -> None:
        error: Exception | None = None
        try:
            while (data := await self._call.read()) is not EOF:
                self.inbox.put(self._source, data.data)
                # It is empty before its reader hears of that.
                while self.inbox.size >= REPORT:
                    self._room.clear()
                    await self._room.wait()
        except grpc.RpcError as failure:
            error = failed(failure)
        self.inbox.state(ended=True, error=error)


class CarriedWriter:
    """(pipe_writer.Writer)"""

    def __init__(self, place: LoopPlace, sent: Callable[[int], None], notify: Callable[[], None]) -> None:
        self.broken = False
        self.error: Exception | None = None
        self.size = 0
        self._place = place
        self._sent = sent
        self._notify = notify
        self._queue: deque[bytes] = deque()
        self._stirred = asyncio.Event()
        self._call: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, wait: float | None) -> None:
        """(Writer)"""
        await self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, wait))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._follow())]

    def feed(self, data: bytes) -> None:
        """(Writer)"""
        self._queue.append(data)
        self.size += len(data)
        self._stirred.set()

    async def close(self) -> None:
        """(Writer)"""
        if self._call is None:
            return
        try:
            while self.size and not self.broken:
                await self._stirred.wait()
                self._stirred.clear()
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._call.done_writing()
            await asyncio.wait({self._tasks[1]})
            # The home may have said of all that it is written, and that some of it is lost only at the end.
            if self.size or self.error is not None:
                raise self.error or Broken(f"nobody reads the pipe {self._place.name} any more")
        finally:
            self._call.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._place.close()

    async def _begin(self, stub: Any, wait: float | None) -> None:
        self._call = stub.Write()
        await loop_first(self._call, wait, pipe_pb2.PipeWrite(name=self._place.text, wait=wait))

    async def _run(self) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                while self._queue:
                    await self._call.write(pipe_pb2.PipeWrite(data=self._queue.popleft()))
                self._stirred.clear()
                await self._stirred.wait()

    async def _follow(self) -> None:
        try:
            while (written := await self._call.read()) is not EOF:
                self.size -= written.bytes
                self._sent(written.bytes)
                self._stirred.set()
            # Some have `read` say so of every end.
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                self.error = from_status(code, await self._call.details() or "")
        except grpc.RpcError as failure:
            self.error = failed(failure)
        self.broken = True
        self._notify()
        self._stirred.set()


def failed(error: Any) -> Exception:
    """What a call has failed with."""
    failure = from_status(error.code(), error.details() or "")
    if isinstance(failure, CallFailed) and failure.code is grpc.StatusCode.CANCELLED:
        return CallFailed(grpc.StatusCode.UNAVAILABLE, failure.details)
    return failure
