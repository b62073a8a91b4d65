"""Wakes a thread that is parked in poll for news that does not come over the wire: another thread's cancellation."""

from __future__ import annotations

import contextlib
import os
import threading

from ipcd_client.wire.fds import Fd


class Waker:
    """An eventfd. One thread parks on it, any thread may wake it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = Fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def fileno(self) -> int:
        """For poll."""
        return self._fd.fileno()

    def wake(self) -> None:
        """Ends the present or the next park."""
        os.eventfd_write(self._fd.fileno(), 1)

    def clear(self) -> None:
        """Forgets earlier wakes."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd.fileno())


_local = threading.local()


def mine() -> Waker | None:
    """The calling thread's own, made when it first parks, closed when the thread ends: so there are as many as threads
    that have waited, and not one for each connection. None: there is no descriptor for it at present."""
    waker: Waker | None = getattr(_local, "waker", None)
    if waker is None:
        try:
            waker = _local.waker = Waker()
        except OSError:
            return None
    return waker


def _after_fork() -> None:
    # The child would share the counter with its parent.
    global _local
    _local = threading.local()


os.register_at_fork(after_in_child=_after_fork)
