"""The `memory` wire: both ends in one process, for tests."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from ipcd_client.errors import WireClosed
from ipcd_client.frame.codec import Buffer, Decoder, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.wire import buffers
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.base import Wire, millis, pieces
from ipcd_client.wire.fds import Fd

CAPACITY: Final = 256 * 1024


class _Pipe:
    """One direction: bytes up to a capacity. `readable` and `writable` are eventfds that are up while they
    hold."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lock = threading.Lock()
        # What was sent at once, and the descriptors that came with it.
        self.data: deque[tuple[bytes, Sequence[Fd]]] = deque()
        self.size = 0
        self.ended = False
        self.readable = Fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self.writable = Fd(os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self.users = 2

    def signal(self) -> None:
        """Brings both flags up to date. Under the lock."""
        _set(self.readable, bool(self.data) or self.ended)
        _set(self.writable, self.size < self.capacity or self.ended)

    def leave(self) -> None:
        """One end is gone; the second one to go closes the eventfds."""
        with self.lock:
            self.ended = True
            self.users -= 1
            self.signal()
            if not self.users:
                self.drop()
                # Closed when the last thread that polls them has left.
                self.readable = self.writable = _NONE

    def abandon(self) -> None:
        """In a forked child: the flags are shared with the parent, and must not change."""
        self.lock = threading.Lock()
        self.ended = True
        self.users = 0
        self.readable.close()
        self.writable.close()
        self.drop()

    def drop(self) -> None:
        """What nobody will receive any more."""
        for _, fds in self.data:
            fdlib.close_all(fds)
        self.data.clear()


_NONE: Final = Fd(-1)


def _set(flag: Fd, up: bool) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(flag.fileno())
    if up:
        os.eventfd_write(flag.fileno(), 1)


class MemoryWire(Wire):
    """See the module. Made in pairs by `pair`."""

    kind = "memory"

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._decoder = Decoder(MAX_HELLO, allocate=buffers.take)
        self._queue: deque[tuple[memoryview, Sequence[Fd]]] = deque()
        self._fds: deque[Fd] = deque()
        self._closing = threading.Lock()
        self.peek = lambda timeout: [True] if self.poll(timeout) else []

    def fileno(self) -> int:
        readable = self._in.readable
        return -1 if self.closed else readable.fileno()

    def peer(self) -> str:
        return "the other end in memory"

    @property
    def max_frame(self) -> int:
        return self._decoder.max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self._decoder.max_frame = size

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        fdlib.check_count(fds)
        if self.closed:
            fdlib.close_all(fds)
            raise WireClosed("the connection was closed on this side")
        queued = pieces(buffers, fds)
        self._queue.extend(queued)
        self.backlog += sum(len(view) for view, _ in queued)
        return self.flush()

    def flush(self) -> bool:
        pipe = self._out
        with pipe.lock:
            if self.closed:
                raise WireClosed("the connection was closed on this side")
            if pipe.ended:
                raise WireClosed(f"{self.peer()} closed the connection")
            while self._queue and pipe.size < pipe.capacity:
                view, fds = self._queue.popleft()
                piece = view[: pipe.capacity - pipe.size]
                pipe.data.append((bytes(piece), fds))
                pipe.size += len(piece)
                self.backlog -= len(piece)
                if len(piece) < len(view):
                    self._queue.appendleft((view[len(piece) :], ()))
            pipe.signal()
        return not self._queue

    def recv(self) -> Frame | None:
        while True:
            frame = self._decoder.next()
            if frame is not None:
                return frame
            if not self._decoder.partial:
                fdlib.check_named(self._fds)
            pipe = self._in
            with pipe.lock:
                if self.closed:
                    raise WireClosed("the connection was closed on this side")
                if not pipe.data:
                    if pipe.ended:
                        middle = " in the middle of a frame" if self._decoder.partial else ""
                        raise WireClosed(f"{self.peer()} closed the connection{middle}")
                    return None
                data, fds = pipe.data.popleft()
                self._fds += fds
                pipe.size -= len(data)
                pipe.signal()
            place = self._decoder.buffer()
            if place is not None:
                count = min(len(place), len(data))
                place[:count] = data[:count]
                self._decoder.filled(count)
                data = data[count:]
                if not data:
                    continue
            self._decoder.feed(data)

    def take_fds(self, count: int) -> list[Fd]:
        with self._in.lock:
            return fdlib.pop(self._fds, count)

    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        return self._poll(timeout, True, write, also)

    def poll_write(self, timeout: float | None) -> bool:
        return self._poll(timeout, False, True, -1)

    def _poll(self, timeout: float | None, read: bool, write: bool, also: int) -> bool:
        readable, writable = self._in.readable, self._out.writable
        if self.closed:
            return True
        poller = select.poll()
        if also >= 0:
            poller.register(also, select.POLLIN)
        if read:
            poller.register(readable.fileno(), select.POLLIN)
        if write:
            poller.register(writable.fileno(), select.POLLIN)
        return bool(poller.poll(millis(timeout)))

    def shutdown(self) -> None:
        for pipe in (self._in, self._out):
            with pipe.lock:
                if pipe.users:
                    pipe.ended = True
                    pipe.signal()

    def abandon(self) -> None:
        self.closed = True
        self.backlog = 0
        self._queue.clear()
        self._in.abandon()
        self._out.abandon()

    def abort(self) -> None:
        with self._closing:
            if self.closed:
                return
            self.closed = True
        with self._out.lock:
            self.backlog = 0
            for _, fds in self._queue:
                fdlib.close_all(fds)
            self._queue.clear()
        with self._in.lock:
            fdlib.close_all(self._fds)
            self._fds.clear()
        self._in.leave()
        self._out.leave()


def pair(capacity: int = CAPACITY) -> tuple[MemoryWire, MemoryWire]:
    """Two connected ends. `capacity` in bytes for each direction."""
    one, other = _Pipe(capacity), _Pipe(capacity)
    return MemoryWire(one, other), MemoryWire(other, one)
