"""The serving side of grpc.aio: asserted of grpcio, which is the oracle, and of our server over each wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from conformance.aio.echo import SERVICE, Echo
from ipcd_client.testing import direct_aio
from ipcd_client.testing.direct import WIRES, DirectNode

LIMIT = 30.0  # seconds for one test: far more than any takes


@dataclass
class Side:
    """A running server with the Echo service, and a channel to it. `connect` makes more: of grpc.aio's shape, or with
    `sync` of grpc's."""

    name: str
    echo: Echo
    server: grpc.aio.Server
    channel: grpc.aio.Channel
    connect: Callable[..., Any]

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def down(self, method: str) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def up(self, method: str) -> Any:
        return self.channel.stream_unary(f"/{SERVICE}/{method}")

    def both(self, method: str) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")


Main = Callable[[Side], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def _grpc_aio_runs() -> Iterator[None]:
    """grpc.aio's poller lives through the suite: else it comes and goes with each test, later than the test."""

    async def call(function: Callable[[], None]) -> None:
        function()

    # On a loop that is closed afterwards: it would make one that is not.
    with asyncio.Runner() as runner:
        runner.run(call(grpc.aio.init_grpc_aio))
        yield
        runner.run(call(grpc.aio.shutdown_grpc_aio))


Made = tuple[grpc.aio.Server, Callable[..., Any]]


def grpcio_server(**arguments: Any) -> Made:
    """One of grpcio's, and what connects with it."""
    server = grpc.aio.server(**arguments)
    port = server.add_insecure_port("127.0.0.1:0")

    def connect(sync: bool = False, **more: Any) -> Any:
        return (grpc if sync else grpc.aio).insecure_channel(f"127.0.0.1:{port}", **more)

    return server, connect


def our_server(wire: str, **arguments: Any) -> Made:
    """One of ours."""
    node = DirectNode(wire)
    pool = arguments.pop("migration_thread_pool", None)

    def connect(sync: bool = False, **more: Any) -> Any:
        return node.channel(**more) if sync else direct_aio.channel(node, **more)

    return direct_aio.server(node, pool, **arguments), connect


@pytest.fixture(params=["grpc.aio", *WIRES])
def make(request: pytest.FixtureRequest) -> Callable[..., Made]:
    """Makes servers of one kind. They are the test's to start and stop."""
    if request.param == "grpc.aio":
        return grpcio_server
    return lambda **arguments: our_server(request.param, **arguments)


@pytest.fixture
def run(make: Callable[..., Any], request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function of a Side on a loop of its own, in debug mode. Nothing may be left on the loop."""
    name = request.node.callspec.params["make"]

    def begin(main: Main, factory: Callable[[], asyncio.AbstractEventLoop] | None = None, **arguments: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                echo = Echo()
                server, connect = make(handlers=(echo,), **arguments)
                await server.start()
                try:
                    async with connect() as channel:
                        await main(Side(name, echo, server, channel, connect))
                finally:
                    echo.release.set()
                    echo.released.set()
                    await server.stop(None)
                if name != "grpc.aio":
                    await quiet()

        with asyncio.Runner(debug=True, loop_factory=factory) as runner:
            runner.run(limited())

    return begin


async def until(condition: Callable[[], bool]) -> None:
    """Until it is true; the test's own limit says how long."""
    while not condition():  # noqa: ASYNC110 - it may be anything, also in another thread
        await asyncio.sleep(0.01)


async def quiet() -> None:
    """Nothing is left on the loop: what was told to end has had its turn."""
    for _ in range(10):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
