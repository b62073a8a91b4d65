"""Pipes, for an event loop: `ipcd_client.aio.pipe`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc

from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import Broken
from ipcd_client.primitives.loop_carried import CarriedReader, CarriedWriter
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_parts import ANSWER, KIND, waiting
from ipcd_client.primitives.pipe_reader import PIECE, WINDOW, Reader
from ipcd_client.primitives.pipe_writer import Writer


class _Closable(Protocol):
    async def close(self) -> None: ...


E = TypeVar("E", bound=_Closable)


class Opening(Generic[E]):
    """An end that is being opened: to be awaited, or entered with `async with`, which closes it."""

    def __init__(self, open_: Callable[[], Coroutine[Any, Any, E]]) -> None:
        self._open = open_
        self._end: E | None = None

    def __await__(self) -> Generator[Any, None, E]:
        return self._open().__await__()

    async def __aenter__(self) -> E:
        self._end = await self
        return self._end

    async def __aexit__(self, *_: object) -> None:
        if self._end is not None:
            await self._end.close()


class ReadEnd:
    """Bytes, as they come. For one task at a time."""

    def __init__(self, kind: type[Reader | CarriedReader], place: LoopPlace) -> None:
        self._news = asyncio.Event()
        self._reader = kind(place, self._news.set)
        self._rest = b""  # read, and not taken by the program
        self._closed = False

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, once there are any; all until the end of the file, for -1. b"" is the end of the file:
        nobody writes any more. If somebody opens the pipe for writing again, more can be read.

        Raises:
            PrimitiveError, CallFailed: the pipe is lost.
            ValueError: it is closed.
        """
        if self._closed:
            raise ValueError("read of closed pipe")
        if size < 0:
            return b"".join([part async for part in self._all()])
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        return await self._read(size) if size else b""

    async def readline(self) -> bytes:
        """Up to a newline, or to the end of the file."""
        parts: list[bytes] = []
        while data := await self.read(PIECE):
            end = data.find(b"\n") + 1
            if end:
                self._rest = data[end:] + self._rest
                parts.append(data[:end])
                break
            parts.append(data)
        return b"".join(parts)

    async def readexactly(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            asyncio.IncompleteReadError: the file ends before.
        """
        parts: list[bytes] = []
        left = size
        while left:
            data = await self.read(left)
            if not data:
                raise asyncio.IncompleteReadError(b"".join(parts), size)
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def at_eof(self) -> bool:
        """Nobody writes, and all is read."""
        return not self._rest and not self._reader.inbox.size and self._reader.inbox.over

    async def close(self) -> None:
        """What is not read goes to other readers, if there are any. If this was the last one, writers' pipe breaks."""
        if not self._closed:
            self._closed = True
            await self._reader.close()

    async def opened(self, wait: float | None) -> Self:
        """Once there is a writer."""
        await self._reader.open(wait)
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._lines()

    async def _lines(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line

    async def _all(self) -> AsyncIterator[bytes]:
        while data := await self.read(WINDOW):
            yield data

    async def _read(self, size: int) -> bytes:
        inbox = self._reader.inbox
        while not inbox.size:
            if inbox.at_end():
                return b""
            self._news.clear()
            await self._news.wait()
        parts, due = inbox.take(size)
        if due:
            self._reader.took()
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


class WriteEnd:
    """Takes bytes. `write`, then `drain`, as of asyncio's streams."""

    def __init__(self, kind: type[Writer | CarriedWriter], place: LoopPlace) -> None:
        self._news = asyncio.Event()
        self._writer = kind(place, self._sent, self._news.set)
        self._closed = False
        self._name = place.name

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Has it written, soon. Up to 4096 bytes, and even 256 KiB, stay together, whoever else writes.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
            ValueError: it is closed.
        """
        self._check()
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            self._writer.feed(bytes(view[start : start + PIECE]))

    async def drain(self) -> None:
        """Waits until readers were given what was written.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
        """
        while self._writer.size:
            self._check()
            self._news.clear()
            await self._news.wait()
        self._check()

    async def close(self) -> None:
        """Waits until the readers have all.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
        """
        if not self._closed:
            self._closed = True
            await self._writer.close()

    async def opened(self, wait: float | None) -> Self:
        """Once there is a reader."""
        await self._writer.open(wait)
        return self

    def _check(self) -> None:
        if self._closed:
            raise ValueError("write to closed pipe")
        if self._writer.broken:
            raise self._writer.error or Broken(f"nobody reads the pipe {self._name} any more")

    def _sent(self, _size: int) -> None:
        self._news.set()


class Pipe:
    """See `pipe`."""

    def __init__(self, name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> None:
        self._given = (name, node, channel)
        self.name = self._place().name

    def open_read(self, *, wait: float | None = None, nonblock: bool = False) -> Opening[ReadEnd]:
        """Opens it for reading, once somebody has it open for writing. `wait`: for so many seconds at most. `nonblock`:
        at once, whoever is there."""
        seconds = waiting(wait, nonblock=nonblock)
        kind = Reader if self._given[2] is None else CarriedReader
        return Opening(lambda: ReadEnd(kind, self._place()).opened(seconds))

    def open_write(self, *, wait: float | None = None, nonblock: bool = False) -> Opening[WriteEnd]:
        """Opens it for writing, once somebody has it open for reading. `nonblock`: at once, or NoReader, an OSError
        with ENXIO."""
        seconds = waiting(wait, nonblock=nonblock)
        kind = Writer if self._given[2] is None else CarriedWriter
        return Opening(lambda: WriteEnd(kind, self._place()).opened(seconds))

    async def close(self) -> None:
        """Nothing is held between calls. What was opened stays open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def make(self) -> None:
        """Has it stay when nobody has it open, until `remove`, or until the daemon of its home ends."""
        await self._ask(lambda stub: stub.Make(pipe_pb2.PipeMake(name=self._given[0]), timeout=ANSWER))

    async def remove(self) -> None:
        """Takes it away from whoever has it open. Raises: NoSuchName: there is none."""
        await self._ask(lambda stub: stub.Remove(pipe_pb2.PipeName(name=self._given[0]), timeout=ANSWER))

    async def facts(self) -> pipe_pb2.PipeFacts:
        """How many have it open. Raises: NoSuchName: there is none."""
        request = pipe_pb2.PipeName(name=self._given[0])
        facts: pipe_pb2.PipeFacts = await self._ask(lambda stub: stub.Look(request, timeout=ANSWER))
        return facts

    async def _ask(self, act: Callable[[Any], Any]) -> Any:
        place = self._place()
        try:
            return await place.run(pipe_pb2_grpc.PipeStub, act)
        finally:
            await place.close()

    def _place(self) -> LoopPlace:
        name, node, channel = self._given
        return LoopPlace(KIND, name, node, channel)


def pipe(name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> Pipe:
    """A named pipe: bytes, from those who have it open for writing to those who have it open for reading, on any node.

    Args:
        name: NAME, or NAME@NODE for that node's.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: instead, a channel of grpc.aio's to a node's gateway: the daemon then carries the bytes.

    Raises:
        BadRequest: it is no name.
    """
    return Pipe(name, node=node, channel=channel)
