"""Which thread runs which call, where the threads of the executor are as fast or as slow as can be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from ipcd_client.frame.settings import Settings
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.wire.unix import UnixWire

LIMIT = 10.0


class Hasty(Executor):
    """Whatever it is given has begun, and ended, before `submit` returns: as where a thread that submits is kept off
    the CPU just then."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self._threads.submit(fn, *args, **kwargs)
        future.exception(LIMIT)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


class Closed(Executor):
    """One that was shut down."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise RuntimeError("cannot schedule new futures after shutdown")


class Job:
    """A call that is answered with its method's name."""

    def __init__(self, connection: Connection, call: ServerCall) -> None:
        self.slow = "slow" in call.method
        self._connection = connection
        self._call = call

    def run(self) -> None:
        if "waits" in self._call.method:
            self._connection._host.about_to_wait()  # type: ignore[union-attr]
        self._connection.finish(self._call, 0, message=self._call.method.encode())

    def reject(self, why: str) -> None:
        self._connection.finish(self._call, 14, why)


@contextmanager
def calling(executor: Executor, methods: list[str]) -> Iterator[tuple[Connection, list[ClientCall]]]:
    """Calls that have all arrived before the reactor looks for the first time."""
    one, other = socket.socketpair()
    reactor = Reactor(executor, Job, "test")
    served = Connection(UnixWire(other, peer="caller"), Settings(), dialer=False, host=reactor)
    connection = Connection(UnixWire(one, peer="server"), Settings(accept_calls=False), dialer=True)
    served.look()
    connection.handshake()
    calls = [ClientCall(method, 1000) for method in methods]
    for call in calls:
        connection.start(call, message=b"", end=True)
    reactor.add(served)
    reactor.start()
    try:
        yield connection, calls
    finally:
        connection.close()
        ending = threading.Thread(target=reactor.stop)
        ending.start()
        ending.join(LIMIT)
        executor.shutdown()


@pytest.mark.parametrize(
    "methods",
    [
        ["/fast/1", "/fast/2", "/fast/3"],
        ["/waits/1", "/fast/2", "/waits/3"],
        ["/waits/1", "/slow/2", "/fast/3"],
        ["/slow/1", "/waits/2", "/fast/3"],
    ],
    ids="-".join,
)
def test_every_call_is_run(methods: list[str]) -> None:
    with calling(Hasty(), methods) as (connection, calls):
        for call in calls:
            assert connection.wait(call.stream, lambda call=call: call.done, monotonic() + LIMIT)  # type: ignore[misc]
        assert [bytes(call.messages[0][0]).decode() for call in calls] == methods


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_every_call_is_told_that_the_executor_was_shut_down(kind: str) -> None:
    with calling(Closed(), [f"/{kind}/1", f"/{kind}/2", "/fast/3"]) as (connection, calls):
        for call in calls:
            assert connection.wait(call.stream, lambda call=call: call.done, monotonic() + LIMIT)  # type: ignore[misc]
        assert {call.details for call in calls} == {"cannot schedule new futures after shutdown"}
