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
from ipcd_client.sync.fair import UNBEGUN
from ipcd_client.sync.reactor import _TURN, Reactor
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
        self.connection = connection
        self.whose = connection._host._whose[connection]  # type: ignore[union-attr]
        self._call = call

    def run(self) -> None:
        if "waits" in self._call.method:
            self.connection._host.about_to_wait()  # type: ignore[union-attr]
        self.connection.finish(self._call, 0, message=self._call.method.encode())

    def reject(self, why: str) -> None:
        self.connection.finish(self._call, 14, why)


class Starved(Reactor):
    """There is no memory for every second look, whoever looks."""

    looks = 0

    def _read(self, timeout: float | None) -> Any:
        self.looks += 1
        if self.looks % 2:
            raise MemoryError
        return super()._read(timeout)


@contextmanager
def calling(
    executor: Executor, methods: list[str], made: type[Reactor] = Reactor
) -> Iterator[tuple[Connection, list[ClientCall]]]:
    """Calls that have all arrived before the reactor looks for the first time."""
    one, other = socket.socketpair()
    reactor = made(executor, Job, "test")
    served = Connection(UnixWire(other, peer="caller"), Settings(), dialer=False, host=reactor)
    connection = Connection(UnixWire(one, peer="server"), Settings(accept_calls=False), dialer=True)
    served.look()
    connection.handshake()
    calls = [ClientCall(method, 1000) for method in methods]
    for call in calls:
        connection.start(call, message=b"", end=True)
    reactor.add(served, served)
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


@pytest.mark.parametrize(
    "methods", [["/fast/1", "/fast/2", "/fast/3"], ["/slow/1", "/slow/2", "/fast/3"], ["/slow/1"] * 100]
)
def test_every_call_is_told_that_the_executor_was_shut_down(methods: list[str]) -> None:
    with calling(Closed(), methods) as (connection, calls):
        for call in calls:
            assert connection.wait(call.stream, lambda call=call: call.done, monotonic() + LIMIT)  # type: ignore[misc]
        assert {call.details for call in calls} == {"cannot schedule new futures after shutdown"}


def test_it_goes_on_where_there_is_no_memory_now_and_then() -> None:
    with calling(ThreadPoolExecutor(2), [], Starved) as (connection, _):
        for number in range(20):
            calls = [ClientCall(f"/fast/{number}", 1000), ClientCall(f"/slow/{number}", 1000)]
            for call in calls:
                connection.start(call, message=b"", end=True)
            for call in calls:
                assert connection.wait(call.stream, lambda call=call: call.done, monotonic() + LIMIT)  # type: ignore[misc]
                assert call.details == ""


def test_calls_that_wait_when_the_executor_is_shut_down() -> None:
    """More than are given to it at a time; the first of them runs at that moment."""
    executor = ThreadPoolExecutor(1)
    begun, shut = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        shut.wait(LIMIT)

    executor.submit(hold)
    begun.wait(LIMIT)
    with calling(executor, ["/slow/1"] * 100) as (connection, calls):
        deadline = monotonic() + LIMIT
        while executor._work_queue.qsize() < UNBEGUN and monotonic() < deadline:
            threading.Event().wait(0.001)
        executor.shutdown(wait=False)
        shut.set()
        for call in calls:
            assert connection.wait(call.stream, lambda call=call: call.done, monotonic() + LIMIT)  # type: ignore[misc]
        told = [call.details for call in calls]
        assert told.count("") == UNBEGUN
        assert told.count("cannot schedule new futures after shutdown") == 100 - UNBEGUN


def test_many_connections_of_one_process_do_not_hold_up_another() -> None:
    """Their wires hold frames, and their sockets more, at each look: also then they are read once a look."""
    reactor = Reactor(Closed(), Job, "test")
    pairs = [socket.socketpair() for _ in range(17)]
    served = [Connection(UnixWire(one, peer="caller"), Settings(), dialer=False, host=reactor) for one, _ in pairs]
    callers = [Connection(UnixWire(two, peer="server"), Settings(accept_calls=False), dialer=True) for _, two in pairs]
    try:
        for connection, caller in zip(served, callers, strict=True):
            connection.look()
            caller.handshake()
            reactor.add(connection, "good" if connection is served[-1] else "flood")
        *flood, good = callers
        for caller in flood:
            for number in range(60):
                caller.start(ClientCall(f"/fast/{number}", 1000), message=bytes(1400), end=True)
        begun = 0
        for look in range(400):
            if look == 40:
                good.start(ClientCall("/fast/good", 1000), message=b"", end=True)
            jobs = reactor._read(0)
            assert len(jobs) <= 2 * _TURN
            if look == 40:
                assert "good" in [job.whose for job in jobs[:2]]
            for job in jobs:
                job.run()
            begun += len(jobs)
        assert begun == 60 * len(flood) + 1
    finally:
        for connection in [*callers, *served]:
            connection.close()
        reactor.stop()
