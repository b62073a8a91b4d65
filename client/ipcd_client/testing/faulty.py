"""A wire whose sending goes wrong where a test says: split, held up, cut off, corrupted.

Places are counted in bytes of what is sent, from 0::

    wire = FaultyWire(inner, Split(100), Corrupt(at=16, mask=0x01), Cut(at=5000))

Receiving is the inner wire's. What goes wrong between two processes in both directions needs one at each end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ipcd_client.errors import WireClosed
from ipcd_client.frame.codec import Buffer, Frame
from ipcd_client.wire.base import Wire, pieces
from ipcd_client.wire.fds import Fd, close_all

_SLICE: Final = 0.002


@dataclass(frozen=True)
class Split:
    """At most `every` bytes are handed on at a time."""

    every: int


@dataclass(frozen=True)
class Delay:
    """Byte `at` and what follows go on `seconds` after their turn has come."""

    at: int
    seconds: float


@dataclass(frozen=True)
class Hold:
    """Byte `at` and what follows go on once `release` was called."""

    at: int


@dataclass(frozen=True)
class Cut:
    """The wire is aborted once `at` bytes have gone."""

    at: int


@dataclass(frozen=True)
class Corrupt:
    """Byte `at` is changed by exclusive-or with `mask`."""

    at: int
    mask: int = 0xFF


Fault = Split | Delay | Hold | Cut | Corrupt


class FaultyWire(Wire):
    """See the module. Owns `inner`. `clock` is what Delay goes by."""

    kind = "faulty"

    def __init__(self, inner: Wire, *faults: Fault, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner = inner
        self.passed = 0  # bytes that were handed on
        self._clock = clock
        self.peek = lambda timeout: [True] if self.poll(timeout) else []
        self._queue: deque[tuple[memoryview, Sequence[Fd]]] = deque()
        self._every = min((fault.every for fault in faults if isinstance(fault, Split)), default=1 << 30)
        self._masks = {fault.at: fault.mask for fault in faults if isinstance(fault, Corrupt)}
        places = [fault for fault in faults if isinstance(fault, (Delay, Hold, Cut))]
        self._places: deque[Delay | Hold | Cut] = deque(sorted(places, key=lambda fault: fault.at))
        self._since: float | None = None

    def release(self) -> None:
        """Ends the hold that is next."""
        held = next(fault for fault in self._places if isinstance(fault, Hold))
        self._places.remove(held)

    # -- sending ----------------------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        if self.closed:
            close_all(fds)
            raise WireClosed("the connection was closed on this side")
        self._queue.extend(pieces(buffers, fds))
        return self.flush()

    def flush(self) -> bool:
        if self.closed or self.inner.closed:
            raise WireClosed("the connection was closed on this side")
        while self._queue and not self._stopped():
            if self.inner.backlog and not self.inner.flush():
                break
            view, fds = self._queue.popleft()
            size = min(len(view), self._every, *(fault.at - self.passed for fault in list(self._places)[:1]))
            if size < len(view):
                self._queue.appendleft((view[size:], ()))
            self.inner.send([self._changed(view[:size])], fds)
            self.passed += size
        if self.inner.backlog:
            self.inner.flush()
        self.backlog = sum(len(view) for view, _ in self._queue) + self.inner.backlog
        return not self.backlog

    def _stopped(self) -> bool:
        """At a place where nothing goes on for now. A delay that is over is taken off."""
        while self._places and self._places[0].at <= self.passed:
            fault = self._places[0]
            if isinstance(fault, Hold):
                return True
            if isinstance(fault, Cut):
                self.abort()
                raise WireClosed(f"cut after {self.passed} bytes")
            if self._since is None:
                self._since = self._clock()
            if self._clock() - self._since < fault.seconds:
                return True
            self._since = None
            self._places.popleft()
        return False

    def _changed(self, view: memoryview) -> bytes:
        data = bytearray(view)
        for at, mask in self._masks.items():
            if self.passed <= at < self.passed + len(data):
                data[at - self.passed] ^= mask
        return bytes(data)

    def poll_write(self, timeout: float | None) -> bool:
        return self._poll(timeout, self.inner.poll_write)

    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        if not write:
            return self.inner.poll(timeout, also=also)
        return self._poll(
            timeout,
            lambda left: self.inner.poll(left, write=True, also=also),
            lambda: self.inner.poll(0, also=also),
        )

    def _poll(
        self, timeout: float | None, wait: Callable[[float | None], bool], readable: Callable[[], bool] = lambda: False
    ) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while not self.closed and self._stopped():
            left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
            if readable():
                return True
            if left <= 0:
                return False
            time.sleep(left)
        return wait(None if end is None else max(0.0, end - time.monotonic()))

    # -- the rest is the inner wire's -------------------------------------------------------------

    def fileno(self) -> int:
        return self.inner.fileno()

    def peer(self) -> str:
        return self.inner.peer()

    @property
    def max_frame(self) -> int:
        return self.inner.max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self.inner.max_frame = size

    def recv(self) -> Frame | None:
        return self.inner.recv()

    def take_fds(self, count: int) -> list[Fd]:
        return self.inner.take_fds(count)

    def settled(self) -> bool:
        return self.inner.settled()

    def check(self) -> None:
        self.inner.check()

    def shutdown(self) -> None:
        self.inner.shutdown()

    def abandon(self) -> None:
        self.closed = True
        self.inner.abandon()

    def abort(self) -> None:
        self.closed = True
        self.backlog = 0
        queue, self._queue = self._queue, deque()
        for _, fds in queue:
            close_all(fds)
        self.inner.abort()
