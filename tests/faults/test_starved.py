"""Processes that get no memory, or no descriptor, just then: the connection is lost at most, and no call hangs."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.errors import WireStarved
from ipcd_client.frame.events import CallOpened
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync import waker
from ipcd_client.testing.direct import DirectNode
from ipcd_client.wire import memory
from ipcd_client.wire.base import Wire

LONG = 10.0  # seconds: far more than anything here takes
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def starve(wire: Wire) -> None:
    """What comes next finds no memory, however it is taken in."""
    inner: Any = wire

    def none(*_: object) -> NoReturn:
        raise MemoryError

    inner.recv = inner.glance = none


@pytest.fixture(params=["memory", "unix", "tcp", "shm"])
def node(request: pytest.FixtureRequest) -> DirectNode:
    return DirectNode(request.param)


@pytest.fixture
def echo(node: DirectNode) -> Iterator[Echo]:
    """Served by `node`."""
    echo = Echo()
    with futures.ThreadPoolExecutor(4) as pool:
        server = node.server(pool, handlers=(echo,))
        server.start()
        yield echo
        echo.release.set()
        server.stop(0).wait(LONG)


def failure_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Status and details."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    told: Any = raised.value
    return told.code(), told.details()


@pytest.mark.parametrize("end", ["server", "caller"])
@pytest.mark.parametrize("kind", ["UnaryEcho", "DownCount"])
def test_no_memory_costs_the_connection(node: DirectNode, echo: Echo, end: str, kind: str) -> None:
    made = node.make
    ends: list[tuple[Wire, Wire]] = []

    def make() -> tuple[Wire, Wire]:
        ends.append(made())
        return ends[-1]

    node.make = make
    with node.channel() as channel:
        make_call = channel.unary_unary if kind.startswith("Unary") else channel.unary_stream
        multicallable = make_call(f"/{SERVICE}/{kind}")

        def call() -> object:
            answer = multicallable(b"1", timeout=LONG)
            return answer if isinstance(answer, bytes) else list(answer)

        first = call()
        callers, servers = ends[0]
        starve(servers if end == "server" else callers)
        # What lies in shared memory and was never looked at may go elsewhere, and does.
        if (node.transport, end) != ("shm", "server"):
            code, details = failure_of(call)
            assert code is UNAVAILABLE
            assert end == "server" or "there was no memory for what" in details
        # Both ends go on, over another connection.
        assert call() == first
    assert len(ends) == 2


def test_no_memory_on_a_loop() -> None:
    async def main() -> None:
        one, other = memory.pair()
        caller = Connection(one, Settings(), dialer=True)
        callee = Connection(other, Settings(), dialer=False)

        def refuse(opened: CallOpened, _fds: object) -> None:
            starve(one)
            callee.refuse(opened.stream, "no")

        callee.on_call = refuse
        await caller.handshake()
        with pytest.raises(CallFailed) as caught:
            await caller.call("/t.T/any", b"", timeout=LONG)
        assert caught.value.code is UNAVAILABLE
        assert isinstance(caller.error, WireStarved)
        await caller.close()
        await callee.closed()

    asyncio.run(main())


def test_a_thread_without_a_descriptor_to_be_woken_by(
    node: DirectNode, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees answers at once, and what other threads do soon."""

    def none(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with node.channel() as channel:
        echo_call = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
        wait_call = channel.unary_unary(f"/{SERVICE}/UnaryWait")
        assert echo_call(b"warm", timeout=LONG) == b"warm"
        monkeypatch.setattr(os, "eventfd", none)
        results: list[object] = []

        def calls() -> None:
            assert waker.mine() is None
            future = wait_call.future(b"late", timeout=LONG)
            echo.entered.acquire(timeout=LONG)
            threading.Timer(0.05, echo.release.set).start()
            results.append(future.result())
            results.append(echo_call(b"again", timeout=LONG))

        thread = threading.Thread(target=calls)
        thread.start()
        thread.join(LONG)
        assert results == [b"late", b"again"]
