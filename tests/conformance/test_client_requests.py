"""Streams of requests: what the program's iterator does, and what becomes of it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import ENOUGH, LONG
from conformance.ways import Way, every_way_of_a_stream
from grpc import StatusCode


class NoIterable:
    """Has __next__ and nothing else."""

    def __init__(self, *requests: bytes) -> None:
        self._requests = list(requests)

    def __next__(self) -> bytes:
        if not self._requests:
            raise StopIteration
        return self._requests.pop(0)


def begin(side: Side, way: Way, requests: Any, **arguments: Any) -> Any:
    method = side.both("BothEcho") if way.gets_stream else side.up("UpJoin")
    method = method if way.how == "call" else getattr(method, way.how)
    return method(requests, **({"timeout": LONG} | arguments))


def run(side: Side, way: Way, requests: Any, **arguments: Any) -> bytes:
    begun = begin(side, way, requests, **arguments)
    if way.gets_stream:
        return b",".join(begun)
    if way.how == "future":
        begun = begun.result()
    joined: bytes = begun[0] if way.how == "with_call" else begun
    return joined


@every_way_of_a_stream
@pytest.mark.parametrize("requests", [[b"1", b"2"], (b"1",), None, 5, b"12"], ids=repr)
def test_what_is_no_iterator(side: Side, way: Way, requests: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        run(side, way, requests)
    error: Any = raised.value
    assert (error.code(), error.details()) == (StatusCode.UNKNOWN, "Exception iterating requests!")
    assert not error.cancelled()


@every_way_of_a_stream
def test_what_has_only_next(side: Side, way: Way) -> None:
    assert run(side, way, NoIterable(b"1", b"2")) == b"1,2"


@every_way_of_a_stream
@pytest.mark.parametrize("count", [0, 1, 3])
def test_iterators(side: Side, way: Way, count: int) -> None:
    requests = [b"%d" % n for n in range(count)]
    assert run(side, way, iter(requests)) == b",".join(requests)
    assert run(side, way, (request for request in requests)) == b",".join(requests)


@every_way_of_a_stream
def test_an_iterator_that_raises(side: Side, way: Way) -> None:
    def requests() -> Iterator[bytes]:
        yield b"1"
        raise RuntimeError("no more")

    with pytest.raises(grpc.RpcError) as raised:
        run(side, way, requests())
    error: Any = raised.value
    assert (error.code(), error.details()) == (StatusCode.UNKNOWN, "Exception iterating requests!")


@every_way_of_a_stream
def test_an_iterator_that_blocks_does_not_keep_the_call(side: Side, way: Way) -> None:
    hold = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        assert hold.wait(LONG)

    with pytest.raises(grpc.RpcError) as raised:
        run(side, way, requests(), timeout=0.2)
    error: Any = raised.value
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    hold.set()


@every_way_of_a_stream
@pytest.mark.parametrize("ending", ["close", "deadline"])
def test_a_generator_is_closed_when_the_call_ends(side: Side, way: Way, ending: str) -> None:
    begun, step, closed = threading.Event(), threading.Semaphore(0), threading.Event()

    def requests() -> Iterator[bytes]:
        try:
            while True:
                begun.set()
                yield b"1"
                assert step.acquire(timeout=LONG)
        finally:
            closed.set()

    def close() -> None:
        assert begun.wait(LONG)
        side.channel.close()

    closer = threading.Thread(target=close)
    if ending == "close":
        closer.start()
    with pytest.raises(grpc.RpcError):
        run(side, way, requests(), timeout=ENOUGH if ending == "deadline" else LONG)
    if ending == "close":
        closer.join(LONG)
    # The generator may be waiting in its own body, from which it has to come back.
    step.release()
    limit = time.monotonic() + LONG
    while not closed.wait(0.02) and time.monotonic() < limit:
        gc.collect()  # the error of a call that is its own error refers to frames that refer to the call
    assert closed.is_set()


def test_nothing_more_is_taken_after_an_early_answer(side: Side) -> None:
    answered, closed = threading.Event(), threading.Event()
    taken: list[int] = []

    def requests() -> Iterator[bytes]:
        try:
            for n in range(1000):
                taken.append(n)
                yield b"%d" % n
                assert n < 1 or answered.wait(LONG)
        finally:
            closed.set()

    assert side.up("UpEarly")(requests(), timeout=LONG) == b"0"
    answered.set()
    assert closed.wait(LONG)
    assert len(taken) <= 4


def test_responses_come_while_the_iterator_blocks(side: Side) -> None:
    hold = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        assert hold.wait(LONG)
        yield b"2"

    call = side.both("BothEcho")(requests(), timeout=LONG)
    assert next(call) == b"1"
    assert call.is_active()
    hold.set()
    assert list(call) == [b"2"]


def test_a_request_over_ones_own_limit(start: Any) -> None:
    side = start(channel_options=[("grpc.max_send_message_length", 1000)])
    with pytest.raises(grpc.RpcError) as raised:
        side.up("UpJoin")(iter([b"1", bytes(2000)]), timeout=LONG)
    error: Any = raised.value
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "2000 vs. 1000" in error.details()
