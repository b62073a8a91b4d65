"""A grpcio server of the test's own making, in this process, and a channel to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

Handlers = dict[str, Any]
# Takes the methods of services by name.
Serve = Callable[[dict[str, Handlers]], grpc.Channel]


def _start(pool: futures.ThreadPoolExecutor, services: dict[str, Handlers]) -> tuple[grpc.Server, int]:
    server = grpc.server(pool)
    handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


@pytest.fixture(scope="session", autouse=True)
def _grpcio_runs() -> Iterator[None]:
    """A server and a channel that live through these tests, so that grpcio's pollers do too: else they come and go with
    each test, later than the test."""
    echo: Any = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    with futures.ThreadPoolExecutor(1) as pool:
        server, port = _start(pool, {"kept.Alive": {"Echo": echo}})
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/kept.Alive/Echo")
            call(b"")
            yield
        server.stop(None).wait()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts one."""
    servers: list[grpc.Server] = []
    channels: list[grpc.Channel] = []
    with futures.ThreadPoolExecutor(8) as pool:

        def begin(services: dict[str, Handlers]) -> grpc.Channel:
            server, port = _start(pool, services)
            servers.append(server)
            channels.append(grpc.insecure_channel(f"127.0.0.1:{port}"))
            return channels[-1]

        yield begin
        # Emptied, because pytest keeps what it gave to the test for longer than what lives through all of them.
        while channels:
            channels.pop().close()
        while servers:
            servers.pop().stop(None).wait()
