"""Pipes, for threads: `ipcd_client.pipe`."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from ipcd_client.errors import UsageError
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives import background
from ipcd_client.primitives.carried import CarriedReader, CarriedWriter
from ipcd_client.primitives.errors import Broken
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_parts import ANSWER, KIND, waiting
from ipcd_client.primitives.pipe_reader import PIECE, WINDOW, Reader
from ipcd_client.primitives.pipe_writer import Writer
from ipcd_client.primitives.place import Place

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Bytes that were written and are not on their way.
_AHEAD: Final = WINDOW
# Bytes that a file reads ahead.
_BUFFER: Final = 64 << 10


class _End(io.RawIOBase):
    """The raw file of one end, whose work is done by a loop in the background."""

    _engine: Any

    def __init__(self, name: str, mode: str, make: Callable[[], Reader | Writer], wait: float | None) -> None:
        self.name = name
        self.mode = mode
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._background = background.hold()
        try:
            self._engine = self._background.run(_opened(make, wait))
        except BaseException:
            background.release(self._background)
            super().close()
            raise
        _open.add(self)

    def close(self) -> None:
        if not self.closed:
            self._leave(self._engine.close)

    def abandon(self) -> None:
        """Closes it, and waits for nobody: what was written and is not read is lost."""
        if not self.closed:
            self._leave(self._engine.abandon)

    def _leave(self, leave: Callable[[], Any]) -> None:
        super().close()
        self._notify()
        # The thread of a process that was forked from is not here, and at the interpreter's end it does not run.
        if self._pid != os.getpid() or sys.is_finalizing():
            return
        _open.discard(self)
        try:
            self._background.run(leave())
        finally:
            background.release(self._background)

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the pipe is closed")
        if self._pid != os.getpid():
            raise UsageError("the pipe was opened in another process: open it in this one")

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


async def _opened(make: Callable[[], Reader | Writer], wait: float | None) -> Reader | Writer:
    engine = make()
    await engine.open(wait)
    return engine


# Those of this process that are open.
_open: weakref.WeakSet[_End] = weakref.WeakSet()


def _at_exit() -> None:
    """As the system closes descriptors: what was written is for the readers to have."""
    for end in list(_open):
        with contextlib.suppress(Exception):
            end.close()


atexit.register(_at_exit)


class ReadEnd(_End):
    """The raw file that reads."""

    def __init__(self, place: Callable[[], LoopPlace], name: str, wait: float | None) -> None:
        super().__init__(name, "rb", lambda: Reader(place(), self._notify), wait)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Waits until there are bytes. 0 is the end of the file: nobody writes any more. If somebody opens the pipe for
        writing again, more can be read.

        Raises:
            PrimitiveError, CallFailed: the pipe is lost.
        """
        self._check()
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        inbox = self._engine.inbox
        with self._changed:
            while not inbox.size:
                if self.closed:
                    raise ValueError("the pipe was closed meanwhile")
                if inbox.at_end():
                    return 0
                self._changed.wait()
            # Within the lock: another thread would take it, and this one find the end of the file.
            parts, due = inbox.take(len(view))
        start = 0
        for part in parts:
            view[start : start + len(part)] = part
            start += len(part)
        if due:
            self._background.soon(self._engine.took)
        return start

    def close(self) -> None:
        """What is not read goes to other readers, if there are any. If this was the last one, writers' pipe breaks."""
        super().close()


class WriteEnd(_End):
    """The raw file that writes. Each write of up to 4096 bytes, and even of 256 KiB, stays together, whoever else
    writes."""

    def __init__(self, place: Callable[[], LoopPlace], name: str, wait: float | None) -> None:
        self._ahead = 0
        self._pieces: deque[bytes] = deque()  # on their way to the loop, which looks if there were none before
        super().__init__(name, "wb", lambda: Writer(place(), self._sent, self._notify), wait)

    def _sent(self, size: int) -> None:
        with self._changed:
            self._ahead -= size
            self._changed.notify_all()

    def _feed(self) -> None:
        """(on the loop)"""
        with self._changed:
            pieces, self._pieces = self._pieces, deque()
        for piece in pieces:
            self._engine.feed(piece)

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        """Writes all, as fast as readers take it.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
        """
        self._check()
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            piece = bytes(view[start : start + PIECE])
            with self._changed:
                while self._ahead >= _AHEAD and not self._engine.broken and not self.closed:
                    self._changed.wait()
                if self.closed:
                    raise ValueError("the pipe was closed meanwhile")
                if self._engine.broken:
                    raise self._engine.error or Broken(f"nobody reads the pipe {self.name} any more")
                self._ahead += len(piece)
                # Within the lock, so that what threads write stays in one order.
                self._pieces.append(piece)
                if len(self._pieces) == 1:
                    self._background.soon(self._feed)
        return len(view)

    def close(self) -> None:
        """Waits until the readers have all.

        Raises:
            BrokenPipeError: nobody reads the pipe any more.
        """
        super().close()


class Pipe:
    """See `pipe`."""

    def __init__(self, name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> None:
        self._place = Place(KIND, name, node, channel)
        self._channel = channel
        self.name = self._place.name

    def open_read(self, *, buffering: int = -1, wait: float | None = None, nonblock: bool = False) -> io.BufferedReader:
        """Opens it for reading, once somebody has it open for writing.

        Args:
            buffering: bytes that the file reads ahead, which no other reader has any more; by default 64 KiB. 0: none,
                the file is the raw one, an io.RawIOBase.
            wait: for so many seconds at most.
            nonblock: at once, whoever is there.

        Raises:
            TimedOut: nobody writes within the time.
            PrimitiveError, NotAllowed, CallFailed: it cannot be opened.
        """
        seconds = waiting(wait, nonblock=nonblock)
        raw: Any
        if self._channel is not None:
            raw = CarriedReader(self._place, seconds)
        else:
            raw = ReadEnd(self._loop_place, self.name, seconds)
        return raw if buffering == 0 else io.BufferedReader(raw, _BUFFER if buffering < 0 else buffering)

    def open_write(self, *, buffering: int = 0, wait: float | None = None, nonblock: bool = False) -> io.RawIOBase:
        """Opens it for writing, once somebody has it open for reading.

        Args:
            buffering: bytes that the file gathers before it writes them; such a file is an io.BufferedWriter, whose
                writes do not stay together.
            nonblock: at once, or NoReader, an OSError with ENXIO.
            wait: as of `open_read`.

        Raises:
            TimedOut, NoReader: nobody reads.
            PrimitiveError, NotAllowed, CallFailed: it cannot be opened.
        """
        seconds = waiting(wait, nonblock=nonblock)
        raw: Any
        if self._channel is not None:
            raw = CarriedWriter(self._place, seconds)
        else:
            raw = WriteEnd(self._loop_place, self.name, seconds)
        return raw if buffering <= 0 else io.BufferedWriter(raw, buffering)  # type: ignore[return-value]

    def close(self) -> None:
        """Lets go of the channel to its home. What was opened stays open."""
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make(self) -> None:
        """Has it stay when nobody has it open, until `remove`, or until the daemon of its home ends."""
        request = pipe_pb2.PipeMake(name=self._place.text)
        self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: stub.Make(request, timeout=ANSWER))

    def remove(self) -> None:
        """Takes it away from whoever has it open. Raises: NoSuchName: there is none."""
        request = pipe_pb2.PipeName(name=self._place.text)
        self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: stub.Remove(request, timeout=ANSWER))

    def facts(self) -> pipe_pb2.PipeFacts:
        """How many have it open. Raises: NoSuchName: there is none."""
        request = pipe_pb2.PipeName(name=self._place.text)
        facts: pipe_pb2.PipeFacts = self._place.run(
            pipe_pb2_grpc.PipeStub, lambda stub: stub.Look(request, timeout=ANSWER)
        )
        return facts

    def _loop_place(self) -> LoopPlace:
        return LoopPlace(KIND, self._place.text, self._place.path)


def pipe(name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> Pipe:
    """A named pipe: bytes, from those who have it open for writing to those who have it open for reading, on any node.

    Args:
        name: NAME, or NAME@NODE for that node's.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: instead, any channel to a node's gateway: the daemon then carries the bytes.

    Raises:
        BadRequest: it is no name.
    """
    return Pipe(name, node=node, channel=channel)
