"""Tasks that wait for news of a call or of a connection."""

from __future__ import annotations

import asyncio


class Waiters:
    """Wakes every task that waits. A waiter looks at the state itself, before it waits and after: within one loop
    nothing can happen in between, so no news is lost."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Until the next `progressed`."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            if not future.done() or future.cancelled():
                self._discard(future)

    def progressed(self) -> None:
        """Wakes all."""
        if self._futures:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def _discard(self, future: asyncio.Future[None]) -> None:
        if future in self._futures:
            self._futures.remove(future)
