"""Signals by threads and by an event loop, in one shape for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
from ipcd_client.primitives.flags import Exit, Raised, Told, Watched
from primitives.roads import Road

LONG = 20.0
FACES = ("sync", "aio")


class Ears:
    """A listener."""

    def __init__(self, run: Callable[[Any], Any], listener: Any) -> None:
        self._run = run
        self._listener = listener

    def wait(self, timeout: float | None = LONG) -> Raised:
        flag: Raised = self._run(self._listener.wait(timeout))
        return flag

    def take(self) -> Raised | None:
        flag: Raised | None = self._run(self._listener.take())
        return flag

    @property
    def node(self) -> str:
        return str(self._listener.node)

    @property
    def gaps(self) -> int:
        return int(self._listener.gaps)

    def close(self) -> None:
        self._run(self._listener.close())


class Watch:
    """A watch of a process."""

    def __init__(self, run: Callable[[Any], Any], watch: Any) -> None:
        self._run = run
        self._watch = watch

    @property
    def process(self) -> Watched:
        found: Watched = self._watch.process
        return found

    def wait(self, timeout: float | None = LONG) -> Exit:
        ended: Exit = self._run(self._watch.wait(timeout))
        return ended


class Face:
    """`kind`: sync or aio. What is made here is closed at the end of `face`."""

    def __init__(self, kind: str, runner: asyncio.Runner | None) -> None:
        self.kind = kind
        self._module: Any = ipcd_client if runner is None else ipcd_client.aio
        self._runner = runner
        self._made: list[Any] = []
        self._channels: dict[Road, dict[str, Any]] = {}

    def run(self, result: Any) -> Any:
        """What a call gives, or a coroutine."""
        if self._runner is None:
            return result

        async def awaited() -> Any:
            return await result

        return self._runner.run(awaited())

    def keywords(self, road: Road) -> dict[str, Any]:
        if self._runner is None:
            return road.keywords
        if road not in self._channels:

            async def made() -> dict[str, Any]:
                return road.loop_keywords()

            self._channels[road] = self._runner.run(made())
        return self._channels[road]

    def raise_(self, name: str, *, pid: int | str | None = None, group: str = "", **keywords: Any) -> list[Told]:
        signal = self._module.signal(name, **keywords)
        try:
            told: list[Told] = self.run(signal.raise_(pid=pid, group=group))
        finally:
            self.run(signal.close())
        return told

    def listen(self, name: str, group: str = "", handler: Any = None, **keywords: Any) -> Ears:
        listener = self._module.signal(name, **keywords).listen(group=group, handler=handler)
        if self._runner is not None:
            listener = self.run(listener)
        ears = Ears(self.run, listener)
        self._made.append(listener)
        return ears

    def watch(self, *arguments: Any, **keywords: Any) -> Watch:
        watch = self._module.watch_exit(*arguments, **keywords)
        if self._runner is not None:
            watch = self.run(watch)
        self._made.append(watch)
        return Watch(self.run, watch)

    def close(self) -> None:
        for each in self._made:
            self.run(each.close())
        for keywords in self._channels.values():
            if "channel" in keywords:
                self.run(keywords["channel"].close())

    def forget(self) -> None:
        """What was made here."""
        self._made.clear()
        for keywords in self._channels.values():
            keywords.clear()  # the test may have them too


@contextlib.contextmanager
def poller() -> Iterator[None]:
    """grpc.aio's poller lives meanwhile: else it comes and goes with each test, later than the test."""

    async def call(function: Callable[[], None]) -> None:
        function()

    # On a loop that is closed afterwards: it would make one that is not.
    with asyncio.Runner() as runner:
        runner.run(call(grpc.aio.init_grpc_aio))
        yield
        runner.run(call(grpc.aio.shutdown_grpc_aio))


@contextlib.contextmanager
def opened(kind: str) -> Iterator[Face]:
    """One of them, for a while."""
    if kind == "sync":
        face = Face(kind, None)
        try:
            yield face
        finally:
            face.close()
        return
    with asyncio.Runner() as runner:
        before = runner.run(descriptors())
        face = Face(kind, runner)
        try:
            yield face
        finally:
            face.close()
            face.forget()
            runner.run(over(before))


async def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def over(before: int) -> None:
    """What grpc.aio has still to hear of calls that were cancelled it hears on a loop that runs; until then it keeps
    their connections."""
    end = asyncio.get_running_loop().time() + LONG
    while asyncio.get_running_loop().time() < end:
        gc.collect()
        if await descriptors() <= before:
            return
        await asyncio.sleep(0.01)
