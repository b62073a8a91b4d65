"""The two faces of semaphores as one: handles whose methods are coroutines either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self

import ipcd_client
import ipcd_client.aio
from primitives.roads import Road

FACES = ("sync", "aio")


class InThreads:
    """A handle or a hold for threads. Its methods run in threads."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.thing, name)
        if not callable(found) or name == "on_lost":
            return found

        async def method(*arguments: Any, **keywords: Any) -> Any:
            result = await asyncio.to_thread(found, *arguments, **keywords)
            return InThreads(result) if hasattr(result, "token") else result

        return method

    async def __aenter__(self) -> Self:
        self.thing.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.thing.__exit__, *error)


class Face:
    """One of them, on one road."""

    def __init__(self, kind: str, road: Road) -> None:
        self.kind = kind
        self.road = road

    @asynccontextmanager
    async def handle(self, name: str, value: int | None = None, **keywords: Any) -> AsyncIterator[Any]:
        """Of a semaphore at the road's end."""
        name = self.road.name(name)
        if self.kind == "sync":
            with ipcd_client.semaphore(name, value, **(self.road.keywords | keywords)) as handle:
                yield InThreads(handle)
            return
        more = self.road.loop_keywords() | keywords
        async with ipcd_client.aio.semaphore(name, value, **more) as loop_handle:
            yield loop_handle
        if "channel" in more:
            await more["channel"].close()


def plain(thing: Any) -> Any:
    """As it goes into an operation on several."""
    return thing.thing if isinstance(thing, InThreads) else thing


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test."""
    asyncio.run(main())
