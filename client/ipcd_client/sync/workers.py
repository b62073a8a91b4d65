"""The executor of a server, asked for a thread only where it can give one.

CPython waits in `Thread.start` until the new thread says that it runs. One that finds no memory for its first steps
ends without a word, and whoever has started it waits for ever; of a ThreadPoolExecutor, with a lock that every further
`submit` needs. So where a thread would have to be made, it is tried first whether there is room for it.
"""

from __future__ import annotations

import mmap
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

# Bytes of address space: a stack as large as Linux gives by default, and what Python needs to get going. It is short
# only where it is bounded (RLIMIT_AS): a cgroup that is at its limit kills, and refuses nothing.
ROOM: Final = 12 << 20
# Seconds for which a shortage is waited out, and between two looks.
PATIENCE: Final = 0.3
_LOOK: Final = 0.01


class NoThread(RuntimeError):
    """No thread will run it: the executor was shut down, or there is no memory for a thread."""


class Workers:
    """Of one executor. Threads of it that have come once are there for good, as far as is known; others may use them
    too, and then it is merely tried for nothing whether there is room."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._known: set[int] = set()
        self._given = 0  # not yet at its end
        self._lock = threading.Lock()

    def submit(self, run: Callable[[], None]) -> None:
        """Has a thread run it.

        Raises:
            NoThread: none ever will.
        """
        until = 0.0
        while self._given >= len(self._known) and not room():
            now = time.monotonic()
            until = until or now + PATIENCE
            if now >= until:
                raise NoThread("there is no memory for another thread")
            time.sleep(_LOOK)
        given = _Given(self, run)
        with self._lock:
            self._given += 1
        try:
            self._executor.submit(given)
        except (RuntimeError, MemoryError) as error:
            # It may be in the executor's queue, for a thread that was there before.
            if given.withdrawn():
                self.done()
                raise NoThread(str(error) or "there is no memory for another thread") from error

    def begun(self) -> None:
        """By a thread of the executor."""
        ident = threading.get_ident()
        if ident not in self._known:
            with self._lock:
                self._known.add(ident)

    def done(self) -> None:
        """One of those that were given is at its end."""
        with self._lock:
            self._given -= 1


class _Given:
    __slots__ = ("_run", "_workers")

    def __init__(self, workers: Workers, run: Callable[[], None]) -> None:
        self._workers = workers
        self._run: list[Callable[[], None]] = [run]

    def __call__(self) -> None:
        try:
            # One of this and `withdrawn` gets it.
            run = self._run.pop()
        except IndexError:
            return
        self._workers.begun()
        try:
            run()
        finally:
            self._workers.done()

    def withdrawn(self) -> bool:
        """It does not run any more. False: it has begun."""
        try:
            self._run.pop()
        except IndexError:
            return False
        return True


def room() -> bool:
    """Whether a thread can be started, as far as memory goes."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return True
    try:
        mmap.mmap(-1, ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, MemoryError):
        return False
    return True
