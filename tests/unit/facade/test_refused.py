"""Calls that a server refuses because it is stopping go to another one, in every way of calling."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from conformance.echo import SERVICE, Echo
from conformance.outcomes import LONG
from conformance.ways import PATH, Way, every_way
from ipcd_client.testing.direct import WIRES, DirectNode


def serving(node: DirectNode, pool: futures.Executor, way: Way, name: bytes) -> tuple[Any, Echo]:
    """A server whose PATH answers with its name and the requests, all in one."""
    servicer = Echo()

    def answer(argument: Any, context: grpc.ServicerContext) -> bytes:
        return b" ".join([name, *(argument if way.sends_stream else [argument])])

    def answers(argument: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield answer(argument, context)

    make = getattr(grpc, f"{way.kind}_rpc_method_handler")
    servicer.handlers[PATH] = make(answers if way.gets_stream else answer)
    server = node.server(pool, handlers=(servicer,))
    server.start()
    return server, servicer


@pytest.mark.parametrize("wire", WIRES)
@every_way
def test_a_server_that_stops_does_not_fail_new_calls(wire: str, way: Way) -> None:
    node = DirectNode(wire)
    with futures.ThreadPoolExecutor(8) as pool:
        first, servicer = serving(node, pool, way, b"first")
        with node.channel() as channel:
            multicallable = way.multicallable(channel)
            assert way.run(multicallable, b"1") == b"first 1"
            second, _ = serving(node, pool, way, b"second")
            # A call under way keeps the connection with the first open, while it takes no more.
            running = channel.unary_unary(f"/{SERVICE}/UnaryWait").future(b"", timeout=LONG)
            assert servicer.entered.acquire(timeout=LONG)
            stopped = first.stop(LONG)
            for _ in range(3):
                assert way.run(multicallable, b"2") == b"second 2"
            servicer.release.set()
            assert running.result(LONG) == b""
            assert stopped.wait(LONG)
        second.stop(None).wait(LONG)


@pytest.mark.parametrize("wire", WIRES)
def test_requests_that_were_taken_are_sent_again(wire: str) -> None:
    """The first request may be on its way to the server that stops; the iterator waits for its answer."""
    way = Way("stream_stream", "call")
    node = DirectNode(wire)
    with futures.ThreadPoolExecutor(8) as pool:
        first, servicer = serving(node, pool, way, b"first")
        with node.channel() as channel:
            assert way.run(way.multicallable(channel), b"1") == b"first 1"
            second, _ = serving(node, pool, way, b"second")
            running = channel.unary_unary(f"/{SERVICE}/UnaryWait").future(b"", timeout=LONG)
            assert servicer.entered.acquire(timeout=LONG)
            stopped = first.stop(LONG)
            answered = threading.Event()

            def requests() -> Iterator[bytes]:
                yield b"1"
                assert answered.wait(LONG)
                yield b"2"

            call = channel.stream_stream(f"/{SERVICE}/BothEcho")(requests(), timeout=LONG)
            assert next(call) == b"1"
            answered.set()
            assert list(call) == [b"2"]
            servicer.release.set()
            assert running.result(LONG) == b""
            assert stopped.wait(LONG)
        second.stop(None).wait(LONG)
