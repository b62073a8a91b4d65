"""A value's two faces as one: the sync one's methods for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipcd_client
import ipcd_client.aio
from primitives.roads import Road

FACES = ("sync", "aio")


class _Driven:
    """Methods of a handle of a loop, each run to its end on that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handle: Any) -> None:
        self._loop = loop
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._handle, name)
        if not callable(found):
            return found

        def call(*args: Any, **keywords: Any) -> Any:
            result = found(*args, **keywords)
            if inspect.isasyncgen(result):
                return self._each(result)
            return self._loop.run_until_complete(result)

        return call

    def _each(self, generator: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(anext(generator))
        finally:
            self._loop.run_until_complete(generator.aclose())


@contextmanager
def handles(face: str, road: Road, *names: str, kind: str = "value") -> Iterator[list[Any]]:
    """Handles of one face, closed at the end."""
    if face == "sync":
        made = [getattr(ipcd_client, kind)(name, **road.keywords) for name in names]
        try:
            yield made
        finally:
            for handle in made:
                handle.close()
        return
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def open_() -> tuple[dict[str, Any], list[Any]]:
            keywords = road.loop_keywords()
            return keywords, [getattr(ipcd_client.aio, kind)(name, **keywords) for name in names]

        keywords, driven = runner.run(open_())
        try:
            yield [_Driven(loop, handle) for handle in driven]
        finally:

            async def end() -> None:
                for handle in driven:
                    await handle.close()
                if "channel" in keywords:
                    await keywords["channel"].close()

            runner.run(end())
