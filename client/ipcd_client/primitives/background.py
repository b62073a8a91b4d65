"""An event loop in a thread of its own, for handles of threads whose work is done on a loop. It is there as long as
somebody uses it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class Background:
    """Of this process. To be got from `hold`, and given back with `release`."""

    def __init__(self) -> None:
        self.users = 0
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="ipcd-pipes", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """What the coroutine gives. Cancelled when this thread is interrupted."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait({future}, 5.0)
            raise

    def soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls it on the loop."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Nobody uses it any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()


_lock = threading.RLock()
_shared: Background | None = None


def hold() -> Background:
    """The loop, started if need be."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Background()
        _shared.users += 1
        return _shared


def release(background: Background) -> None:
    """Gives it back; the last one ends it."""
    global _shared
    with _lock:
        background.users -= 1
        if background.users or background.pid != os.getpid():
            return
        if _shared is background:
            _shared = None
    background.stop()


def _after_fork() -> None:
    # The thread is not here. What used it says so itself.
    global _lock, _shared
    _lock = threading.RLock()
    _shared = None


os.register_at_fork(after_in_child=_after_fork)
