"""One suite over grpcio, which is the oracle, and over each of our wires: what is asserted of ours holds for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.testing.direct import WIRES, DirectNode

# The parameter of a test that asks the oracle.
ORACLES = {"grpcio", "grpc.aio"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """grpcio is asked up to three times what it does: it has races of its own under load (it loses a request of a call
    that it tries again), which are not ours to mend. What was asked again is in the summary, as RERUN. Nothing of ours
    is asked twice.
    """
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            parameters = [value for value in item.callspec.params.values() if isinstance(value, str)]
            if ORACLES.intersection(parameters):
                item.add_marker(pytest.mark.flaky(reruns=2))


@dataclass
class Side:
    """A running server with the Echo service, and a channel to it."""

    name: str
    echo: Echo
    server: grpc.Server
    channel: grpc.Channel
    start: Callable[..., Side]
    executor: futures.Executor
    service: str = SERVICE
    cleanups: list[Callable[[], Any]] = field(default_factory=list)

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def down(self, method: str) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def up(self, method: str) -> Any:
        return self.channel.stream_unary(f"/{SERVICE}/{method}")

    def both(self, method: str) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")

    def serve(self, kind: str, behavior: Callable[..., Any], method: str = f"/{SERVICE}/Served", **codecs: Any) -> Any:
        """Serves `method` by this, and gives the way to call it. `kind`: unary_unary and so on."""
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        self.echo.handlers[method] = make(behavior, **codecs)
        return getattr(self.channel, kind)(method)


Register = Callable[[grpc.Server], None] | None


def _grpcio(
    echo: Echo,
    executor: futures.Executor,
    server_arguments: dict[str, Any],
    channel_options: Any,
    register: Register = None,
) -> Any:
    server = grpc.server(executor, handlers=(echo,), **server_arguments)
    if register is not None:
        register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, grpc.insecure_channel(f"127.0.0.1:{port}", options=channel_options)


def _direct(wire: str) -> Callable[..., Any]:
    def start(
        echo: Echo,
        executor: futures.Executor,
        server_arguments: dict[str, Any],
        channel_options: Any,
        register: Register = None,
    ) -> Any:
        node = DirectNode(wire)
        server = node.server(executor, handlers=(echo,), **server_arguments)
        if register is not None:
            register(server)
        server.start()
        return server, node.channel(options=channel_options)

    return start


@pytest.fixture(scope="session", autouse=True)
def _grpcio_runs() -> Iterator[None]:
    """A grpcio server and channel that live through the suite, so that its runtime's pollers do too: else they come and
    go with each test, later than the test."""
    with futures.ThreadPoolExecutor(1) as pool:
        server, channel = _grpcio(Echo(), pool, {}, None)
        with channel:
            channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"")
            yield
        server.stop(None).wait()


SIDES: dict[str, Callable[..., Any]] = {"grpcio": _grpcio} | {wire: _direct(wire) for wire in WIRES}


@pytest.fixture(params=list(SIDES))
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Side]]:
    """Starts a Side with arguments of its own."""
    sides: list[Side] = []
    pools: list[futures.ThreadPoolExecutor] = []

    def begin(
        threads: int = 8,
        channel_options: Any = None,
        register: Register = None,
        **server_arguments: Any,
    ) -> Side:
        echo = Echo()
        pool = futures.ThreadPoolExecutor(threads)
        pools.append(pool)
        server, channel = SIDES[request.param](echo, pool, server_arguments, channel_options, register)
        side = Side(request.param, echo, server, channel, begin, pool)
        sides.append(side)
        return side

    yield begin
    for side in sides:
        side.echo.release.set()
        side.channel.close()
        side.server.stop(None).wait(5)
    for pool in pools:
        pool.shutdown(wait=True)


@pytest.fixture
def side(start: Callable[..., Side]) -> Side:
    """A Side as it comes."""
    return start()
