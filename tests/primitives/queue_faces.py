"""Both faces of a queue in one shape, so that a test goes over each of them: the coroutines of one run on a loop in a
thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import ipcd_client
import ipcd_client.aio
from integration.daemons import LONG
from primitives.roads import Road

FACES = ("sync", "aio")


class OnLoop:
    """Something of the loop's, used from threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def run(*arguments: Any, **keywords: Any) -> Any:
            return self._run(value, *arguments, **keywords)

        return run

    def __enter__(self) -> Self:
        self._run(self._inner.__aenter__)
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._inner.__aexit__, *error)

    def _run(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        async def main() -> Any:
            result = function(*arguments, **keywords)
            return await result if inspect.isawaitable(result) else result

        return self._wrapped(asyncio.run_coroutine_threadsafe(main(), self._loop).result(2 * LONG))

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, list):
            return [self._wrapped(each) for each in result]
        return OnLoop(self._loop, result) if hasattr(result, "__aexit__") else result


class Face:
    """One of them, for one test on one road."""

    def __init__(self, kind: str, road: Road) -> None:
        self.road = road
        self._kind = kind
        self._opened: list[Any] = []
        self._pool = ThreadPoolExecutor(8)
        if kind == "aio":
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever)
            self._thread.start()
            self._keywords = self._on_loop(road.loop_keywords)

    def queue(self, name: str, **keywords: Any) -> Any:
        """A handle, closed at the test's end."""
        name = name if "@" in name else self.road.name(name)
        if self._kind == "sync":
            made: Any = ipcd_client.queue(name, **self.road.keywords, **keywords)
        else:
            made = OnLoop(self._loop, ipcd_client.aio.queue(name, **self._keywords, **keywords))
        self._opened.append(made)
        return made

    def start(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Future[Any]:
        """Runs it meanwhile."""
        return self._pool.submit(function, *arguments, **keywords)

    def close(self) -> None:
        """Ends it."""
        for each in self._opened:
            each.close()
        self._pool.shutdown()
        if self._kind == "aio":
            channel = self._keywords.get("channel")
            if channel is not None:
                asyncio.run_coroutine_threadsafe(channel.close(), self._loop).result(LONG)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            # gRPC's channels end when nothing holds them any more.
            self._keywords.clear()
        self._opened.clear()

    def _on_loop(self, function: Callable[[], Any]) -> Any:
        async def main() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(main(), self._loop).result(LONG)
