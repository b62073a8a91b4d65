"""Threads of the servers that have none of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable

PAUSE = 0.2  # seconds that a server waits for a message before it looks whether it shall end


class Threads:
    """Each runs `step` over and over until all are closed; a step that found nothing to do has waited for `PAUSE`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self, step: Callable[[], object], close: Callable[[], object]) -> None:
        """`close` is called in the same thread at the end: sockets belong to the thread that uses them."""

        def loop() -> None:
            try:
                while not self._stop.is_set():
                    step()
            finally:
                close()

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(1.0)
