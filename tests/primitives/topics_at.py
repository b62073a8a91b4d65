"""Topics by one face, as tests of both faces write it: calls of the event loop's are run to their end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
from primitives.roads import Road

FACES = ("threads", "loop")


class Blocking:
    """Something of the event loop's, whose methods are used without `await`."""

    def __init__(self, runner: asyncio.Runner, of: Any) -> None:
        self._runner = runner
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if not callable(found):
            return found

        def call(*args: Any, **keywords: Any) -> Any:
            result = found(*args, **keywords)
            if not inspect.isawaitable(result):
                return result

            async def awaited() -> Any:
                return await result

            done = self._runner.run(awaited())
            return Blocking(self._runner, done) if hasattr(done, "receive") else done

        return call


class Loop:
    """A loop, and the channel of grpc.aio's that tests share on it: calls that were cancelled end later than a test."""

    def __init__(self, runner: asyncio.Runner, channel: grpc.aio.Channel) -> None:
        self.runner = runner
        self.channel = channel


async def _connected(address: str) -> grpc.aio.Channel:
    channel = grpc.aio.insecure_channel(address)
    await channel.channel_ready()
    return channel


@contextlib.contextmanager
def loop_for_a_module(address: str) -> Iterator[Loop]:
    """A loop for a module, through which grpc.aio's poller lives: else it comes and goes with each test, later than the
    test, and finds its loop closed."""

    async def call(function: Callable[[], None]) -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(call(grpc.aio.init_grpc_aio))
        loop = Loop(runner, runner.run(_connected(address)))
        yield loop
        runner.run(loop.channel.close())
        # The poller stays for as long as anything holds a channel.
        del loop.channel
        runner.run(call(grpc.aio.shutdown_grpc_aio))


class Face:
    """Makes topics of one road, and closes them in the end."""

    def __init__(self, kind: str, road: Road, loop: Loop | None = None) -> None:
        self.kind = kind
        self.road = road
        self._loop = loop if kind == "loop" else None
        self._made: list[Any] = []

    def topic(self, name: str) -> Any:
        """A handle; `name` is one of the road's."""
        made: Any
        if self._loop is None:
            made = ipcd_client.topic(name, **self.road.keywords)
        else:
            made = Blocking(self._loop.runner, self._loop.runner.run(self._loop_topic(self._loop, name)))
        return self.closing(made)

    async def _loop_topic(self, loop: Loop, name: str) -> Any:
        if self.road.kind != "gateway":
            return ipcd_client.aio.topic(name, **self.road.loop_keywords())
        return ipcd_client.aio.topic(name, channel=loop.channel)

    def closing(self, made: Any) -> Any:
        """It is closed in the end."""
        self._made.append(made)
        return made

    def subscribe(self, name: str, **keywords: Any) -> Any:
        """A subscription."""
        return self.closing(self.topic(name).subscribe(**keywords))

    def close(self) -> None:
        """Ends it all."""
        for made in reversed(self._made):
            made.close()
        self._made.clear()
