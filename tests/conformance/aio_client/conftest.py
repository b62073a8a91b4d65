"""The calling side of grpc.aio: asserted of grpcio, which is the oracle, and of our channel over each wire.

The server is one on threads, of the same kind: what is looked at here is the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.testing import direct_aio
from ipcd_client.testing.direct import WIRES, DirectNode

LIMIT = 30.0  # seconds for one test: far more than any takes


@dataclass
class Client:
    """A channel, and the Echo service at its other end."""

    name: str
    echo: Echo
    server: grpc.Server
    channel: grpc.aio.Channel

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def down(self, method: str) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def up(self, method: str) -> Any:
        return self.channel.stream_unary(f"/{SERVICE}/{method}")

    def both(self, method: str) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")


Main = Callable[[Client], Awaitable[None]]


@pytest.fixture(scope="session", autouse=True)
def _grpc_aio_runs() -> Iterator[None]:
    """grpc.aio's poller lives through the suite: else it comes and goes with each test, later than the test."""

    async def begin() -> None:
        grpc.aio.init_grpc_aio()

    with asyncio.Runner() as runner:
        runner.run(begin())
        yield
        grpc.aio.shutdown_grpc_aio()


@pytest.fixture(params=["grpc.aio", *WIRES])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Runs a coroutine function of a Client on a loop of its own, in debug mode. Nothing may be left on the loop."""
    name = request.param
    with futures.ThreadPoolExecutor(8) as pool:
        echo = Echo()
        if name == "grpc.aio":
            server = grpc.server(pool, handlers=(echo,))
            port = server.add_insecure_port("127.0.0.1:0")

            def connect(**arguments: Any) -> grpc.aio.Channel:
                return grpc.aio.insecure_channel(f"127.0.0.1:{port}", **arguments)
        else:
            node = DirectNode(name)
            server = node.server(pool, handlers=(echo,))

            def connect(**arguments: Any) -> grpc.aio.Channel:
                return direct_aio.channel(node, **arguments)

        server.start()

        def begin(main: Main, **arguments: Any) -> None:
            async def limited() -> None:
                async with asyncio.timeout(LIMIT):
                    async with connect(**arguments) as channel:
                        await main(Client(name, echo, server, channel))
                if name != "grpc.aio":
                    await _quiet()

            asyncio.run(limited(), debug=True)

        try:
            yield begin
        finally:
            echo.release.set()
            server.stop(None).wait(5)


async def _quiet() -> None:
    """Nothing is left on the loop: what a closed channel has told to end has had its turn."""
    for _ in range(5):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
