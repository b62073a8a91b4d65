"""Large messages: memory that is used again while they come, and given back when they have stopped.

To touch fresh pages costs several times what copying a message costs, and three things would do so for each one: our
own buffers (`wire.buffers` keeps them), the segments of shared memory (they stay grown), and the C library's heap, from
which protobuf and Python take theirs: by default glibc returns the top of the heap to the system as soon as 128 KiB to
a few MiB of it are free, and takes it again for the next message. So with the first large message its thresholds are
raised, unless whoever runs the program has set them (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES) or
said no (IPCD_KEEP_HEAP=0).

One thread, which exists only while there is something to give back: when no large message has passed for a second or
two, segments shrink, buffers go, and the heap is trimmed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Final, Protocol

from ipcd_client.wire import buffers

# Messages from this size on, in bytes. glibc maps what is larger than 128 KiB by itself at first.
LARGE: Final = 64 << 10
# Seconds without large messages.
QUIET: Final = 1.0
# malloc.h; and what is kept of the heap meanwhile, in bytes. From the second one on, memory is mapped for each use: the
# C library's own rule for learned thresholds ends there too.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP: Final = 64 << 20
_MAP_FROM: Final = 32 << 20
_SET_BY_OTHERS: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


class Grown(Protocol):
    """What has memory to give back."""

    def tidy(self) -> bool:
        """Gives back what was not used since this was called last. True while there is more."""


class _Tidier:
    def __init__(self) -> None:
        self._prepared = False
        self._libc: ctypes.CDLL | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: the thread is not here, the connections are the parent's."""
        self._lock = threading.Lock()
        self._grown: weakref.WeakSet[Grown] = weakref.WeakSet()
        self._running = False
        self._again = False  # since the thread has looked
        self._over = threading.Event()  # all that had something to give back have gone

    def large(self, grown: Grown) -> None:
        """A large message has come or gone."""
        if not self._prepared:
            self._prepared = True
            self._keep_heap()
        self.grown(grown)

    def grown(self, grown: Grown) -> None:
        """It uses more memory than it does at rest."""
        self._again = True
        if self._running and grown in self._grown:
            return
        with self._lock:
            self._grown.add(grown)
            self._over.clear()
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="ipcd-tidy", daemon=True).start()

    def gone(self, grown: Grown) -> None:
        """It has given all back."""
        if self._running:
            with self._lock:
                self._grown.discard(grown)
                if not self._grown:
                    self._over.set()

    def _keep_heap(self) -> None:
        if os.environ.get("IPCD_KEEP_HEAP") == "0" or any(name in os.environ for name in _SET_BY_OTHERS):
            return
        try:
            libc = ctypes.CDLL(None)
            libc.gnu_get_libc_version  # noqa: B018 - only glibc has the thresholds meant here
            if libc.mallopt(_M_MMAP_THRESHOLD, _MAP_FROM) and libc.mallopt(_M_TRIM_THRESHOLD, _KEEP):
                self._libc = libc
        except (OSError, AttributeError):
            pass  # another C library: it does as it does

    def _run(self) -> None:
        while True:
            self._again = False
            self._over.wait(QUIET)
            with self._lock:
                every = list(self._grown)
            for grown in every:
                if not grown.tidy() and not self._again:
                    self.gone(grown)
            del every
            with self._lock:
                if self._over.is_set() or not (self._grown or self._again):
                    self._running = False
                    self._grown.clear()
                    break
        buffers.drop()
        if self._libc is not None:
            self._libc.malloc_trim(0)


_tidier = _Tidier()


def large(connection: Grown) -> None:
    """To be called when a large message has come or gone over it."""
    _tidier.large(connection)


def grown(connection: Grown) -> None:
    """To be called when it has grown for many small messages that wait."""
    _tidier.grown(connection)


def gone(connection: Grown) -> None:
    """To be called when it has ended."""
    _tidier.gone(connection)


def _after_fork() -> None:
    _tidier.after_fork()
    buffers.after_fork()


os.register_at_fork(after_in_child=_after_fork)
