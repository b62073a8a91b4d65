"""Calls of gRPC's own clients through a node's gateway, to a server of ours on that node and on another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance import interop
from conformance.interop import request
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc
from integration import daemons
from integration.daemons import LONG, run
from integration.exposing import PROTO, tell
from integration.gateway import address_of, channel_to, fact, front_and_back, serving, until_served
from integration.nodejs.node import Node

from ipcd import limits

LIMIT = 4 << 20  # bytes of a message: grpcio's and the gateway's
NOTHING = interop_pb2.Empty()


class Road:
    """From a node with a gateway to a server."""

    def __init__(self, front: daemons.Daemon, server: subprocess.Popen[str]) -> None:
        self.front = front
        self.address = address_of(front)
        self.server = server


@pytest.fixture(scope="module", params=[1, 2], ids=["one node", "two nodes"])
def road(request: pytest.FixtureRequest) -> Iterator[Road]:
    """The server is at the gateway's node, or at the next."""
    with daemons.daemons() as all_of_them:
        front, back = front_and_back(all_of_them, request.param)
        with serving(back) as server, channel_to(front) as channel:
            until_served(channel)
            yield Road(front, server)


@pytest.fixture
def channel(road: Road) -> Iterator[grpc.Channel]:
    """Of one test."""
    with channel_to(road.front) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    """As any program has it."""
    return interop_pb2_grpc.TestStub(channel)


def failed(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=LONG, **keywords)
    return caught.value


# -- every client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", interop.CASES.values(), ids=interop.CASES)
def test_interoperability(case: Callable[[grpc.Channel], None], channel: grpc.Channel) -> None:
    case(channel)


def test_a_service_that_nobody_provides(channel: grpc.Channel) -> None:
    interop.unimplemented_service(channel, grpc.StatusCode.UNAVAILABLE)
    details = failed(channel.unary_unary("/interop.v1.Absent/Missing"), b"").details()
    assert details.startswith("no server for interop.v1.Absent on node")


def test_a_client_on_an_event_loop(road: Road) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(road.address) as channel:
            stub: Any = interop_pb2_grpc.TestStub(channel)
            assert await stub.Unary(request(1, 2, 3), timeout=LONG) == interop.reply(5)
            assert (await stub.Upload(sizes(7, 8), timeout=LONG)).size == 15
            assert [each async for each in stub.Download(request(0, 1, 2), timeout=LONG)] == [
                interop.reply(1),
                interop.reply(2),
            ]
            call = stub.Duplex(timeout=LONG)
            for size in (3, 1):
                await call.write(request(0, size))
                assert await call.read() == interop.reply(size)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    async def sizes(*each: int) -> AsyncIterator[interop_pb2.Request]:
        for size in each:
            yield request(size)

    run(main)


def test_a_client_in_another_language(road: Road, nodejs: Node) -> None:
    with nodejs.running("gateway_client.js", str(PROTO), road.address) as process:
        output, _ = process.communicate(timeout=2 * LONG)
    assert process.returncode == 0
    assert json.loads(output) == {
        "unary": 314159,
        "upload": 74922,
        "download": [31415, 9, 2653, 58979],
        "duplex": [31415, 9, 2653, 58979],
        "metadata": ["test_initial_metadata_value", "ababab"],
        "status": [2, "test status message", "00ff"],
        "deadline": 4,
        "cancelled": 1,
        "missing": 12,
        "absent": 14,
    }


# -- what passes through ----------------------------------------------------------------------------


def test_an_error_keeps_its_details_and_trailing_metadata(stub: Any) -> None:
    status = interop_pb2.Status(code=9, message="asked for")
    for error in (failed(stub.Unary, request(status=status)), failed(stub.Unary.with_call, request(status=status))):
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "asked for")
        assert fact(error, "x-why") == "asked"
        assert fact(error, "grpc-status-details-bin") == b"\0\xff"


def test_metadata(channel: grpc.Channel) -> None:
    method: Any = channel.unary_unary("/conformance.v1.Echo/UnaryMetadata")
    sent = (("x-text", "one"), ("x-text", "two"), ("x-raw-bin", b"\0\xff\n"))
    answer, call = method.with_call(b"\0\xffbytes", metadata=(*sent, ("other", "")), timeout=LONG)
    assert answer == b"\0\xffbytes"
    assert tuple(call.trailing_metadata()) == sent
    received = [tuple(each) for each in call.initial_metadata()]
    assert received == [("x-initial", "one"), ("x-initial", "two"), ("x-bytes-bin", b"\x00\xff")]


def test_initial_metadata_do_not_wait_for_a_message(channel: grpc.Channel) -> None:
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        release.wait(LONG)
        yield b"late"

    hello: Any = channel.stream_stream("/conformance.v1.Echo/BothHello")
    call = hello(requests(), timeout=LONG)
    assert dict(call.initial_metadata())["x-hello"] == "yes"
    release.set()
    assert list(call) == [b"late"]


def test_the_deadline_travels(stub: Any) -> None:
    _, call = stub.Nothing.with_call(NOTHING, timeout=LONG)
    # gRPC rounds up what it tells of a deadline.
    assert LONG / 2 < float(fact(call, "x-left")) < LONG + 1
    _, call = stub.Nothing.with_call(NOTHING)
    assert float(fact(call, "x-left")) > 1e6


def test_an_early_answer_ends_the_requests(channel: grpc.Channel) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"more"

    early: Any = channel.stream_unary("/conformance.v1.Echo/UpEarly")
    assert early(endless(), timeout=LONG) == b"more"


@pytest.mark.parametrize("kind", ["up", "down"])
def test_large_messages(stub: Any, kind: str) -> None:
    """Up to the limit, and past it the error that grpcio's own servers and clients give."""

    def carry(size: int) -> interop_pb2.Request:
        return request(size) if kind == "up" else request(0, size)

    over = 100  # what a message is larger than its payload, at most
    stub.Unary(carry(LIMIT - over), timeout=LONG)
    error = failed(stub.Unary, carry(LIMIT + over))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "message larger than max" in error.details()
    assert str(LIMIT) in error.details()
    stub.Nothing(NOTHING, timeout=LONG)


def test_a_thousand_calls_at_once(road: Road) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(road.address) as channel:
            stub: Any = interop_pb2_grpc.TestStub(channel)
            answers = await asyncio.gather(*(stub.Unary(request(0, size), timeout=LONG) for size in range(1000)))
            assert [len(answer.payload.body) for answer in answers] == list(range(1000))

    run(main)


def test_much_data_leaves_nothing_behind(channel: grpc.Channel) -> None:
    """More than may wait in the gateway at one time has gone through it then, each way."""
    unary: Any = channel.unary_unary("/conformance.v1.Echo/UnaryEcho")
    both: Any = channel.stream_stream("/conformance.v1.Echo/BothEcho")
    large, small = bytes(LIMIT - 1), bytes(LIMIT // 4)
    count = limits.GATEWAY_BYTES // len(large) + 8
    for _ in range(count):
        assert len(unary(large, timeout=LONG)) == len(large)
    answers = both(iter([small] * 4 * count), timeout=5 * LONG)
    assert sum(map(len, answers)) == 4 * count * len(small)


# -- pace -------------------------------------------------------------------------------------------


def test_a_reader_that_stops_stops_the_server(stub: Any) -> None:
    count, size = 256, 1 << 20

    def made() -> int:
        return int(fact(stub.Nothing.with_call(NOTHING, timeout=LONG)[1], "x-made"))

    begin = made()
    call = stub.Download(request(0, *[size] * count), timeout=5 * LONG)
    assert next(call) == interop.reply(size)
    before, same = made(), 0
    # It has come to rest when many calls, each of which has to get past it, find it where it was.
    while same < 200:
        now = made()
        before, same = now, same + 1 if now == before else 0
    assert before - begin < count / 2
    assert sum(1 for _ in call) == count - 1
    assert made() - begin == count


def test_a_server_that_does_not_read_stops_the_caller(channel: grpc.Channel, road: Road) -> None:
    count, size = 256, 1 << 20
    taken = 0

    def requests() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(count):
            taken += 1
            yield bytes(size)

    echo: Any = channel.unary_unary("/conformance.v1.Echo/UnaryEcho")
    never: Any = channel.stream_unary("/conformance.v1.Echo/UpNever")
    call = never.future(requests(), timeout=5 * LONG)
    before, same = taken, 0
    while same < 200:
        echo(b"", timeout=LONG)
        before, same = taken, same + 1 if taken == before and before else 0
    assert before < count / 2
    tell(road.server, "go on")
    assert call.result() == b"done"
