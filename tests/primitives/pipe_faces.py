"""Pipes of both faces, for tests that are not coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self

import ipcd_client
import ipcd_client.aio
from integration.daemons import LONG
from primitives.roads import Road


class Sync:
    """Files of threads."""

    def __init__(self, road: Road) -> None:
        self._road = road

    def open_read(self, name: str, **how: Any) -> Any:
        return ipcd_client.pipe(name, **self._road.keywords).open_read(**how)

    def open_write(self, name: str, **how: Any) -> Any:
        return ipcd_client.pipe(name, **self._road.keywords).open_write(**how)

    def do(self, what: str, name: str) -> Any:
        """`make`, `facts` or `remove`."""
        return getattr(ipcd_client.pipe(name, **self._road.keywords), what)()

    def close(self) -> None:
        """Nothing is kept."""


class Loop:
    """Streams of a loop, which runs in a thread."""

    def __init__(self, road: Road) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._keywords = self.run(self._made(road))

    async def _made(self, road: Road) -> dict[str, Any]:
        return road.loop_keywords()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * LONG)

    def open_read(self, name: str, **how: Any) -> Any:
        return self._opened(name, "open_read", how)

    def open_write(self, name: str, **how: Any) -> Any:
        return self._opened(name, "open_write", how)

    def _opened(self, name: str, method: str, how: dict[str, Any]) -> Any:
        async def opened() -> Any:
            return await getattr(ipcd_client.aio.pipe(name, **self._keywords), method)(**how)

        return _Blocking(self, self.run(opened()))

    def do(self, what: str, name: str) -> Any:
        async def done() -> Any:
            return await getattr(ipcd_client.aio.pipe(name, **self._keywords), what)()

        return self.run(done())

    def close(self) -> None:
        async def end() -> None:
            # grpc.aio's own thread ends with its last object.
            channel = self._keywords.pop("channel", None)
            if channel is not None:
                await channel.close()

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Blocking:
    """A stream, as a file."""

    def __init__(self, loop: Loop, end: Any) -> None:
        self._loop = loop
        self._end = end

    def read(self, size: int = -1) -> Any:
        return self._loop.run(self._end.read(size))

    def readline(self) -> Any:
        return self._loop.run(self._end.readline())

    def write(self, data: bytes) -> None:
        async def written() -> None:
            self._end.write(data)
            await self._end.drain()

        self._loop.run(written())

    def close(self) -> None:
        self._loop.run(self._end.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


FACES = {"sync": Sync, "aio": Loop}
