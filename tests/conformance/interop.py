"""gRPC's interoperability tests: a server for them, and the cases, each a function of a channel to such a server.

Written from https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md; names, sizes and texts are those
of that document, the .proto is not. Whatever carries gRPC's calls has to pass them, so they know nothing of it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Final

import grpc
import pytest
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc

LONG: Final = 20.0  # seconds: far more than anything here takes

SERVICE: Final = "interop.v1.Test"

ECHO_INITIAL: Final = "x-grpc-test-echo-initial"
ECHO_TRAILING: Final = "x-grpc-test-echo-trailing-bin"
# Beyond what may stand in a header: white space, and characters of two to four bytes.
SPECIAL: Final = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"

UPLOADED: Final = (27182, 8, 1828, 45904)
DOWNLOADED: Final = (31415, 9, 2653, 58979)


def reply(size: int) -> interop_pb2.Reply:
    """One with a payload of so many bytes, which are zero."""
    return interop_pb2.Reply(payload=interop_pb2.Payload(body=bytes(size)))


def request(size: int = 0, *replies: int, **fields: Any) -> interop_pb2.Request:
    """One with a payload of `size` bytes, which are zero, that asks for replies of the sizes `replies`."""
    return interop_pb2.Request(payload=interop_pb2.Payload(body=bytes(size)), reply_sizes=replies, **fields)


class Servicer(interop_pb2_grpc.TestServicer):
    """Of any grpc.Server."""

    def Nothing(self, request: interop_pb2.Empty, context: grpc.ServicerContext) -> interop_pb2.Empty:
        _echo_metadata(context)
        return interop_pb2.Empty()

    def Unary(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> interop_pb2.Reply:
        _echo_metadata(context)
        _end_as_asked(request, context)
        return reply(sum(request.reply_sizes))

    def Upload(self, requests: Iterator[interop_pb2.Request], context: grpc.ServicerContext) -> interop_pb2.Sum:
        return interop_pb2.Sum(size=sum(len(each.payload.body) for each in requests))

    def Download(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> Iterator[interop_pb2.Reply]:
        yield from map(reply, request.reply_sizes)

    def Duplex(
        self, requests: Iterator[interop_pb2.Request], context: grpc.ServicerContext
    ) -> Iterator[interop_pb2.Reply]:
        _echo_metadata(context)
        for each in requests:
            _end_as_asked(each, context)
            yield from map(reply, each.reply_sizes)


def _echo_metadata(context: grpc.ServicerContext) -> None:
    for key, value in context.invocation_metadata():
        if key == ECHO_INITIAL:
            context.send_initial_metadata(((key, value),))
        elif key == ECHO_TRAILING:
            context.set_trailing_metadata(((key, value),))


def _end_as_asked(request: interop_pb2.Request, context: grpc.ServicerContext) -> None:
    if request.status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == request.status.code)
        context.abort(code, request.status.message)


class Pipe:
    """An iterator of requests that another thread puts in."""

    def __init__(self) -> None:
        self._queue: queue.Queue[interop_pb2.Request | None] = queue.Queue()

    def put(self, request: interop_pb2.Request) -> None:
        """One more."""
        self._queue.put(request)

    def close(self) -> None:
        """No more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[interop_pb2.Request]:
        while (request := self._queue.get(timeout=LONG)) is not None:
            yield request


def empty_unary(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    answer = stub.Nothing(interop_pb2.Empty(), timeout=LONG)
    assert answer == interop_pb2.Empty()
    assert answer.ByteSize() == 0


def large_unary(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    assert stub.Unary(request(271828, 314159), timeout=LONG) == reply(314159)


def client_streaming(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    assert stub.Upload(map(request, UPLOADED), timeout=LONG).size == 74922


def server_streaming(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    answers = stub.Download(request(0, *DOWNLOADED), timeout=LONG)
    assert [len(each.payload.body) for each in answers] == list(DOWNLOADED)


def ping_pong(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    pipe = Pipe()
    call = stub.Duplex(iter(pipe), timeout=LONG)
    for sent, wanted in zip(UPLOADED, DOWNLOADED, strict=True):
        pipe.put(request(sent, wanted))
        assert next(call) == reply(wanted)
    pipe.close()
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def empty_stream(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    call = stub.Duplex(iter(()), timeout=LONG)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def custom_metadata(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    metadata = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab"))
    answer, unary = stub.Unary.with_call(request(271828, 314159), metadata=metadata, timeout=LONG)
    assert answer == reply(314159)
    duplex = stub.Duplex(iter([request(271828, 314159)]), metadata=metadata, timeout=LONG)
    assert list(duplex) == [reply(314159)]
    for call in (unary, duplex):
        assert metadata[0] in call.initial_metadata()
        assert metadata[1] in call.trailing_metadata()


def status_code_and_message(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    wanted = interop_pb2.Status(code=2, message="test status message")
    for call in (
        stub.Unary.future(request(status=wanted), timeout=LONG),
        stub.Duplex(iter([request(status=wanted)]), timeout=LONG),
    ):
        assert call.code() is grpc.StatusCode.UNKNOWN
        assert call.details() == wanted.message


def special_status_message(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(request(status=interop_pb2.Status(code=2, message=SPECIAL)), timeout=LONG)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == SPECIAL


def unimplemented_method(channel: grpc.Channel) -> None:
    _is_missing(channel, "/interop.v1.Test/Missing", grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(channel: grpc.Channel, code: grpc.StatusCode = grpc.StatusCode.UNIMPLEMENTED) -> None:
    """`code`: where calls are routed by their service, nobody is found who could say that it is unknown to him."""
    _is_missing(channel, "/interop.v1.Absent/Missing", code)


def _is_missing(channel: grpc.Channel, method: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"", timeout=LONG)
    assert caught.value.code() is code


def cancel_after_begin(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    pipe = Pipe()
    call = stub.Upload.future(iter(pipe), timeout=LONG)
    assert call.cancel()
    assert call.cancelled()
    assert call.code() is grpc.StatusCode.CANCELLED
    pipe.close()


def cancel_after_first_response(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    pipe = Pipe()
    call = stub.Duplex(iter(pipe), timeout=LONG)
    pipe.put(request(27182, 31415))
    assert next(call) == reply(31415)
    assert call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.RpcError):
        next(call)
    pipe.close()


def timeout_on_sleeping_server(channel: grpc.Channel) -> None:
    stub = interop_pb2_grpc.TestStub(channel)
    pipe = Pipe()
    pipe.put(request(27182))
    begin = time.monotonic()
    call = stub.Duplex(iter(pipe), timeout=0.001)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The server waits for more requests; only the deadline ends that.
    assert time.monotonic() - begin < LONG
    pipe.close()


def concurrent_large_unary(channel: grpc.Channel) -> None:
    # The descriptions want a thousand for a soak, with a pause between; what matters is that there are many at once.
    stub = interop_pb2_grpc.TestStub(channel)
    with futures.ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda _: stub.Unary(request(271828, 314159), timeout=LONG), range(64))
        assert all(answer == reply(314159) for answer in answers)


# All but unimplemented_service.
CASES: Final[dict[str, Callable[[grpc.Channel], None]]] = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        custom_metadata,
        status_code_and_message,
        special_status_message,
        unimplemented_method,
        cancel_after_begin,
        cancel_after_first_response,
        timeout_on_sleeping_server,
        concurrent_large_unary,
    )
}
