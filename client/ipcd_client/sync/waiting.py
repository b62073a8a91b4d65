"""Threads that sleep until a call has news, or until the reading role is free."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from time import monotonic


class Waiter:
    """A thread asleep until somebody wakes it. A wake before the sleep is not lost."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def sleep(self, deadline: float | None) -> None:
        """Until woken, or the deadline of time.monotonic()."""
        if deadline is None:
            self._lock.acquire()
        else:
            self._lock.acquire(timeout=max(0.0, min(deadline - monotonic(), threading.TIMEOUT_MAX)))

    def wake(self) -> None:
        """Under the connection's lock, so that two wakers do not release twice."""
        if self._lock.locked():
            self._lock.release()


class Waiters:
    """Those of one connection, by stream. Every method is called under the connection's lock."""

    __slots__ = ("_by_stream",)

    def __init__(self) -> None:
        self._by_stream: dict[int, list[Waiter]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_stream)

    def __contains__(self, stream: int) -> bool:
        return stream in self._by_stream

    def add(self, stream: int) -> Waiter:
        """One more, for the calling thread to sleep on."""
        waiter = Waiter()
        self._by_stream.setdefault(stream, []).append(waiter)
        return waiter

    def remove(self, stream: int, waiter: Waiter) -> None:
        """It sleeps no more."""
        waiters = self._by_stream.get(stream, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._by_stream[stream]

    def wake(self, stream: int) -> None:
        """The stream has news."""
        for waiter in self._by_stream.get(stream, ()):
            waiter.wake()

    def wake_one(self) -> None:
        """Whoever waits longest for a stream: the reading role is free."""
        for waiters in self._by_stream.values():
            waiters[0].wake()
            return

    def wake_all(self) -> None:
        """The connection has ended."""
        for waiters in self._by_stream.values():
            for waiter in waiters:
                waiter.wake()
