"""A server's ports: the same service to plain grpcio clients, beside the calls that come through the node."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.echo import SERVICE, Echo
from conformance.outcomes import LONG, stream, unary
from grpc import StatusCode
from ipcd_client.testing.direct import DirectNode

LIMIT = (StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
LOCAL = {"tcp": grpc.LocalConnectionType.LOCAL_TCP, "unix": grpc.LocalConnectionType.UDS}


class Both:
    """A server of ours with a port: a channel of ours to it, and one of grpcio's."""

    def __init__(self, address: str = "127.0.0.1:0", threads: int = 4, **arguments: Any) -> None:
        self.echo = Echo()
        self.executor = futures.ThreadPoolExecutor(threads)
        node = DirectNode("memory")
        self.server = node.server(self.executor, handlers=(self.echo,), **arguments)
        port = self.server.add_insecure_port(address)
        self.channels: dict[str, grpc.Channel] = {
            "ours": node.channel(),
            "grpcio": grpc.insecure_channel(f"127.0.0.1:{port}" if address.endswith(":0") else address),
        }

    def unary(self, side: str, method: str) -> Any:
        return self.channels[side].unary_unary(f"/{SERVICE}/{method}")

    def close(self) -> None:
        self.echo.release.set()
        for channel in self.channels.values():
            channel.close()
        self.server.stop(None).wait(LONG)
        self.executor.shutdown()


@pytest.fixture
def make() -> Iterator[Callable[..., Both]]:
    """Starts one."""
    made: list[Both] = []

    def begin(*args: Any, **arguments: Any) -> Both:
        both = Both(*args, **arguments)
        made.append(both)
        both.server.start()
        return both

    yield begin
    for both in made:
        both.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_all_four_kinds(socket_dir: Path, make: Callable[..., Both], kind: str) -> None:
    both = make("127.0.0.1:0" if kind == "tcp" else f"unix:{socket_dir}/grpc")
    side = Side("", both.echo, both.server, both.channels["grpcio"], make, both.executor)
    assert unary(side.unary("UnaryEcho"), b"hello") == (b"hello",)
    assert stream(side.down("DownCount"), b"3") == ([b"0", b"1", b"2"], StatusCode.OK, "")
    assert unary(side.up("UpJoin"), iter((b"a", b"b"))) == (b"a,b",)
    assert stream(side.both("BothEcho"), iter((b"a", b"b")))[0] == [b"a", b"b"]
    assert unary(side.unary("UnaryAbort"), b"no") == (StatusCode.FAILED_PRECONDITION, "no")
    assert unary(side.unary("Unknown")) == (StatusCode.UNIMPLEMENTED, "Method not found!")
    assert unary(both.unary("ours", "UnaryEcho"), b"hello") == (b"hello",)


@pytest.mark.parametrize("kind", list(LOCAL))
def test_secure_port(kind: str, socket_dir: Path) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        server = DirectNode("memory").server(pool, handlers=(Echo(),))
        address = "127.0.0.1:0" if kind == "tcp" else f"unix:{socket_dir}/grpc"
        port = server.add_secure_port(address, grpc.local_server_credentials(LOCAL[kind]))
        server.start()
        target = f"127.0.0.1:{port}" if kind == "tcp" else address
        with grpc.secure_channel(target, grpc.local_channel_credentials(LOCAL[kind])) as channel:
            assert unary(channel.unary_unary(f"/{SERVICE}/UnaryEcho"), b"hello") == (b"hello",)
        server.stop(None)


def test_several_ports() -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        server = DirectNode("memory").server(pool, handlers=(Echo(),))
        ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(2)]
        server.start()
        for port in ports:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                assert unary(channel.unary_unary(f"/{SERVICE}/UnaryEcho"), b"hello") == (b"hello",)
        server.stop(None)


def test_address_that_cannot_be_bound(side: Side) -> None:
    address = "unix:/no/such/directory/socket"
    with futures.ThreadPoolExecutor(1) as pool:
        if side.name == "grpcio":
            server: grpc.Server = grpc.server(pool)
        else:
            server = DirectNode(side.name).server(pool)
        with pytest.raises(RuntimeError, match=f"Failed to bind to address {address}"):
            server.add_insecure_port(address)
        server.start()  # grpcio keeps descriptors of one that was never started
        server.stop(None)


def test_port_that_comes_too_late(make: Callable[..., Both]) -> None:
    """grpcio gives a port that nobody ever serves."""
    both = make()
    with pytest.raises(ValueError, match="before the server starts"):
        both.server.add_insecure_port("127.0.0.1:0")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("first", "second"), [("ours", "grpcio"), ("grpcio", "ours"), ("grpcio", "grpcio")])
def test_calls_of_both_sorts_count(make: Callable[..., Both], first: str, second: str, threads: int) -> None:
    both = make(threads=threads, maximum_concurrent_rpcs=1)
    running = both.unary(first, "UnaryWait").future(b"waited", timeout=LONG)
    assert both.echo.entered.acquire(timeout=LONG)
    assert unary(both.unary(second, "UnaryEcho")) == LIMIT
    join = both.channels[second].stream_unary(f"/{SERVICE}/UpJoin")
    assert unary(join, iter((b"1", b"2"))) == LIMIT
    both.echo.release.set()
    assert running.result(LONG) == b"waited"
    for side in (first, second):
        outcome = unary(both.unary(side, "UnaryEcho"), b"again")
        while outcome == LIMIT:  # until the handler has ended
            outcome = unary(both.unary(side, "UnaryEcho"), b"again")
        assert outcome == (b"again",)


def test_stop_waits_for_calls_of_both_sorts(make: Callable[..., Both]) -> None:
    both = make()
    running = [both.unary(side, "UnaryWait").future(b"waited", timeout=LONG) for side in both.channels]
    for _ in running:
        assert both.echo.entered.acquire(timeout=LONG)
    stopped = both.server.stop(LONG)
    assert not stopped.is_set()
    assert unary(both.unary("grpcio", "UnaryEcho"))[0] is StatusCode.UNAVAILABLE
    both.echo.release.set()
    assert [future.result(LONG) for future in running] == [b"waited"] * 2
    assert stopped.wait(LONG)
    assert not both.server.wait_for_termination(0)


@pytest.mark.parametrize("grace", [None, 0, 0.05])
def test_stop_ends_calls_of_both_sorts(make: Callable[..., Both], grace: float | None) -> None:
    both = make()
    running = [both.unary(side, "UnaryWait").future(b"", timeout=LONG) for side in both.channels]
    for _ in running:
        assert both.echo.entered.acquire(timeout=LONG)
    stopped = both.server.stop(grace)
    assert grace is not None or stopped.is_set()
    assert [future.code() for future in running] == [StatusCode.UNAVAILABLE] * 2
    assert stopped.wait(LONG)


def test_interceptors_and_handlers_are_the_same(make: Callable[..., Both]) -> None:
    seen: list[str] = []

    class Interceptor(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            seen.append(handler_call_details.method)
            return continuation(handler_call_details)

    both = make(interceptors=[Interceptor()], options=[("grpc.max_receive_message_length", 1000)])
    both.echo.handlers["/late"] = grpc.unary_unary_rpc_method_handler(lambda request, context: b"late")
    for side in both.channels:
        assert unary(both.unary(side, "UnaryEcho"), b"hello") == (b"hello",)
        assert unary(both.unary(side, "UnaryEcho"), bytes(1001))[0] is StatusCode.RESOURCE_EXHAUSTED
    assert unary(both.channels["grpcio"].unary_unary("/late")) == (b"late",)
    assert seen.count(f"/{SERVICE}/UnaryEcho") >= 3


def test_a_dropped_server_with_a_port_is_collected() -> None:
    both = Both()
    both.server.start()
    future = both.unary("grpcio", "UnaryWait").future(b"waited", timeout=LONG)
    assert both.echo.entered.acquire(timeout=LONG)
    dropped = weakref.ref(both.server)
    del both.server
    gc.collect()
    assert dropped() is None
    echo = both.unary("grpcio", "UnaryEcho")
    while unary(echo)[0] is not StatusCode.UNAVAILABLE:  # grpcio looks once in a second
        pass
    both.echo.release.set()
    assert future.result(LONG) == b"waited"
    for channel in both.channels.values():
        channel.close()
    both.executor.shutdown()


def test_stop_within_a_handler_of_a_port(make: Callable[..., Both]) -> None:
    both = make()
    has_stopped = threading.Event()

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        both.server.stop(None)
        has_stopped.set()
        return b""

    both.echo.handlers["/stop"] = grpc.unary_unary_rpc_method_handler(behavior)
    assert unary(both.channels["grpcio"].unary_unary("/stop"))[0] is StatusCode.UNAVAILABLE
    assert has_stopped.wait(LONG)
    assert not both.server.wait_for_termination(LONG)
