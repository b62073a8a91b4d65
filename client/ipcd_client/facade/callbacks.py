"""Where the callbacks of calls run."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

log = logging.getLogger("ipcd_client")

Callback = Callable[[], object]


class Callbacks:
    """Runs callbacks one after another on a thread of its own, which exists only while there are any.

    Whoever notices that a call has ended must not run them: it may be reading the connection for everybody, and then a
    callback that makes a call would wait for itself; or it may hold a lock of the program's that the callback wants.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: deque[Callback] = deque()
        self._thread: threading.Thread | None = None

    def run(self, callbacks: Iterable[Callback]) -> None:
        """Has them run soon."""
        with self._lock:
            self._due.extend(callbacks)
            # After a fork the object is there, its thread is not.
            if self._due and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._work, name="ipcd-callbacks", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._thread = None
                    return
                callback = self._due.popleft()
            try:
                callback()
            except Exception:
                log.exception("Exception in callback %r", callback)
            # Not while waiting for the lock: it may be what keeps a dropped call alive.
            del callback
