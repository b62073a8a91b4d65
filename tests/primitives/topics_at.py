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


@contextlib.contextmanager
def grpc_aio_runs() -> Iterator[None]:
    """grpc.aio's poller lives through a module: else it comes and goes with each test, later than the test."""

    async def call(function: Callable[[], None]) -> None:
        function()

    # On a loop that is closed afterwards: it would make one that is not.
    with asyncio.Runner() as runner:
        runner.run(call(grpc.aio.init_grpc_aio))
        yield
        runner.run(call(grpc.aio.shutdown_grpc_aio))


class Face:
    """Makes topics of one road, and closes them in the end."""

    def __init__(self, kind: str, road: Road) -> None:
        self.kind = kind
        self.road = road
        self._runner = asyncio.Runner() if kind == "loop" else None
        self._made: list[Any] = []
        self._channel: Any = None

    def topic(self, name: str) -> Any:
        """A handle; `name` is one of the road's."""
        made: Any
        if self._runner is None:
            made = ipcd_client.topic(name, **self.road.keywords)
        else:
            made = Blocking(self._runner, self._runner.run(self._loop_topic(name)))
        return self.closing(made)

    async def _loop_topic(self, name: str) -> Any:
        keywords = {"channel": self._channel} if self._channel is not None else self.road.loop_keywords()
        self._channel = keywords.get("channel")
        return ipcd_client.aio.topic(name, **keywords)

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
        if self._runner is not None:
            if self._channel is not None:
                Blocking(self._runner, self._channel).close()
            self._runner.close()
        # gRPC's channels end when nothing holds them any more.
        self._channel = None
        self._made.clear()
