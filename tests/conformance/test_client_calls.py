"""What the caller holds: at once a future, a call, an iterator and an error, whatever the way of calling."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import ENOUGH, LONG, raises
from conformance.ways import (
    PATH,
    Way,
    every_blocking_way,
    every_way,
    every_way_of_one_request,
)
from grpc import StatusCode

Context = grpc.ServicerContext
KINDS = (grpc.Call, grpc.Future, grpc.RpcContext, grpc.RpcError)


def echo(request: bytes, context: Context) -> bytes:
    return request


def abort(request: bytes, context: Context) -> bytes:
    context.send_initial_metadata([("x-first", "1")])
    context.set_trailing_metadata([("x-last", "2")])
    context.abort(StatusCode.DATA_LOSS, request.decode())


def own(metadata: Any) -> list[tuple[str, str | bytes]]:
    """What the servicer sent, without what a transport adds."""
    return [tuple(entry) for entry in metadata if entry.key.startswith("x-")]


def nothing(_: Any) -> None:
    pass


# -- results ------------------------------------------------------------------------------------------


@every_way
def test_success(side: Side, way: Way) -> None:
    way.served(side, echo)
    assert way.run(way.multicallable(side.channel), b"hello") == b"hello"


@every_way
def test_a_call_that_went_well(side: Side, way: Way) -> None:
    way.served(side, echo)
    begun = way.begin(way.multicallable(side.channel), b"hello")
    if way.how == "call" and not way.gets_stream:
        assert begun == b"hello"
        return
    call = begun[1] if way.how == "with_call" else begun
    if way.gets_stream:
        assert list(call) == [b"hello"]
    assert (call.code(), call.details(), call.debug_error_string()) == (StatusCode.OK, "", "")
    assert (call.result(0), call.exception(0), call.traceback(0)) == (None if way.gets_stream else b"hello", None, None)
    assert (call.done(), call.running(), call.is_active(), call.cancelled()) == (True, False, False, False)
    assert (call.cancel(), call.cancelled()) == (False, False)
    assert not call.add_callback(lambda: None)
    assert [kind for kind in KINDS if not isinstance(call, kind)] == []
    assert "StatusCode.OK" in repr(call)
    assert isinstance(call.initial_metadata(), tuple)
    assert isinstance(call.trailing_metadata(), tuple)


@every_way
def test_the_error(side: Side, way: Way) -> None:
    way.served(side, abort)
    error = way.failure(way.multicallable(side.channel), b"broken")
    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "broken")
    assert own(error.initial_metadata()) == [("x-first", "1")]
    assert own(error.trailing_metadata()) == [("x-last", "2")]
    assert "broken" in error.debug_error_string()
    for text in (str(error), repr(error)):
        assert "status = StatusCode.DATA_LOSS" in text
        assert 'details = "broken"' in text
        assert "debug_error_string = " in text
    assert [kind for kind in KINDS if not isinstance(error, kind)] == []


@every_way
def test_the_error_is_a_future_too(side: Side, way: Way) -> None:
    way.served(side, abort)
    error = way.failure(way.multicallable(side.channel), b"broken")
    with pytest.raises(grpc.RpcError) as raised:
        error.result(0)
    assert [raised.value] == [error]
    assert error.exception(0) is error
    assert error.traceback(0) is not None
    assert (error.done(), error.running(), error.cancelled(), error.cancel()) == (True, False, False, False)
    seen: list[object] = []
    error.add_done_callback(seen.append)
    assert seen == [error]


@every_blocking_way
def test_the_error_is_copied(side: Side, way: Way) -> None:
    way.served(side, abort)
    error = copy.copy(way.failure(way.multicallable(side.channel), b"broken"))
    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "broken")


def test_text_of_a_running_call(side: Side) -> None:
    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    assert "status" not in repr(future)
    assert str(future) == repr(future)
    future.cancel()
    assert "StatusCode.CANCELLED" in repr(future)


def test_a_stream_is_its_own_iterator_and_error(side: Side) -> None:
    call = side.down("DownAbort")(b"enough", timeout=LONG)
    assert iter(call) is call
    assert call.next() == b"first"
    errors = []
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        errors.append(raised.value)
    assert errors == [call, call]
    assert call.exception() is call


def test_iteration_goes_on_stopping(side: Side) -> None:
    call = side.down("DownCount")(b"1", timeout=LONG)
    assert list(call) == [b"0"]
    assert list(call) == []
    assert next(call, None) is None


def test_a_stream_is_over_when_its_last_response_was_taken(side: Side) -> None:
    call = side.down("DownCount")(b"3", timeout=LONG)
    assert next(call) == b"0"
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.2)
    assert (call.done(), call.running(), call.is_active()) == (False, True, True)
    codes: list[StatusCode] = []
    thread = threading.Thread(target=lambda: codes.append(call.code()))
    thread.start()
    called = threading.Event()
    call.add_done_callback(lambda _: called.set())
    assert not called.wait(0.1)
    assert list(call) == [b"1", b"2"]
    thread.join(LONG)
    assert codes == [StatusCode.OK]
    assert called.wait(LONG)
    assert call.done()


def test_unread_responses_do_not_keep_a_stream_from_being_cancelled(side: Side) -> None:
    call = side.down("DownCount")(b"3", timeout=LONG)
    assert next(call) == b"0"
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.2)
    assert call.cancel()
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is StatusCode.CANCELLED


def test_the_deadline_covers_what_was_not_read(side: Side) -> None:
    call = side.down("DownCount")(b"3", timeout=ENOUGH)
    assert next(call) == b"0"
    assert call.code() is StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError):
        next(call)


# -- what the program's functions do ------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("serializer", [raises("no"), nothing], ids=["raises", "None"])
def test_a_request_that_does_not_serialize(side: Side, way: Way, serializer: Any) -> None:
    way.served(side, echo)
    multicallable = way.multicallable(side.channel, serializer)
    error = way.failure(multicallable)
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Exception serializing request!")
    if not way.sends_stream:
        with pytest.raises(grpc.RpcError):
            way.begin(multicallable)


# In a stream, grpcio's thread that sends dies of it, and the call waits for its deadline.
@every_way_of_one_request
@pytest.mark.parametrize("request_", ["text", bytearray(b"x"), 5])
def test_a_request_that_is_no_bytes(side: Side, way: Way, request_: Any) -> None:
    way.served(side, echo)
    with pytest.raises(TypeError):
        way.begin(way.multicallable(side.channel), request_)


@every_way
@pytest.mark.parametrize("deserializer", [raises("no"), nothing], ids=["raises", "None"])
def test_a_response_that_does_not_parse(side: Side, way: Way, deserializer: Any) -> None:
    way.served(side, echo)
    error = way.failure(way.multicallable(side.channel, None, deserializer), b"x")
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, "Exception deserializing response!")
    assert not error.cancelled()


@every_way
def test_codecs(side: Side, way: Way) -> None:
    way.served(side, echo)
    assert way.run(way.multicallable(side.channel, str.encode, bytes.decode), "ü") == "ü"


def test_whether_it_parses_is_known_without_the_result(side: Side) -> None:
    future: Any = side.channel.unary_unary("/conformance.v1.Echo/UnaryEcho", None, nothing).future(b"x", timeout=LONG)
    assert future.code() is StatusCode.INTERNAL
    assert future.exception() is future
    with pytest.raises(grpc.RpcError):
        future.result()


# -- waiting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.05])
@pytest.mark.parametrize("method", ["result", "exception", "traceback"])
def test_waiting_times_out(side: Side, method: str, timeout: float) -> None:
    future = side.unary("UnaryWait").future(b"x", timeout=LONG)
    with pytest.raises(grpc.FutureTimeoutError):
        getattr(future, method)(timeout)
    with pytest.raises(grpc.FutureTimeoutError):
        getattr(future, method)(timeout=timeout)
    assert future.running()
    side.echo.release.set()
    assert future.result(LONG) == b"x"
    assert future.result(0) == b"x"


@pytest.mark.parametrize("method", ["code", "details", "trailing_metadata", "result", "exception", "traceback"])
def test_these_wait_for_the_end(side: Side, method: str) -> None:
    future = side.unary("UnaryWait").future(b"x", timeout=LONG)
    assert side.echo.entered.acquire(timeout=LONG)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(getattr(future, method)()))
    thread.start()
    thread.join(0.1)
    assert not got
    side.echo.release.set()
    thread.join(LONG)
    assert len(got) == 1


def test_initial_metadata_waits_for_the_servicer(side: Side) -> None:
    go = threading.Event()
    hold = threading.Event()

    def behavior(request: bytes, context: Context) -> Iterator[bytes]:
        assert go.wait(LONG)
        context.send_initial_metadata([("x-first", "1")])
        assert hold.wait(LONG)
        yield b"late"

    call = side.serve("unary_stream", behavior)(b"", timeout=LONG)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(own(call.initial_metadata())))
    thread.start()
    thread.join(0.1)
    assert not got
    go.set()
    thread.join(LONG)
    assert got == [[("x-first", "1")]]
    assert call.is_active()
    hold.set()
    assert list(call) == [b"late"]


def test_time_remaining(side: Side) -> None:
    with_deadline = side.unary("UnaryWait").future(b"", timeout=LONG)
    without = side.unary("UnaryWait").future(b"")
    assert 0 < with_deadline.time_remaining() <= LONG
    assert without.time_remaining() is None
    side.echo.release.set()
    assert with_deadline.result() == without.result() == b""
    passed = side.unary("UnaryEcho").future(b"", timeout=-1)
    assert passed.code() is StatusCode.DEADLINE_EXCEEDED
    assert passed.time_remaining() == 0


# -- deadlines ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("timeout", [-1, -1e30, float("nan")])
def test_a_deadline_that_has_passed(side: Side, way: Way, timeout: float) -> None:
    way.served(side, echo)
    error = way.failure(way.multicallable(side.channel), timeout=timeout)
    assert (error.code(), error.cancelled()) == (StatusCode.DEADLINE_EXCEEDED, False)
    assert error.details() == "Deadline Exceeded"


@every_way
@pytest.mark.parametrize("timeout", [None, LONG, 10**9])
def test_deadlines_far_away(side: Side, way: Way, timeout: float | None) -> None:
    way.served(side, echo)
    assert way.run(way.multicallable(side.channel), b"x", timeout=timeout) == b"x"


@every_way
def test_a_deadline_that_is_no_number(side: Side, way: Way) -> None:
    way.served(side, echo)
    with pytest.raises(TypeError):
        way.begin(way.multicallable(side.channel), timeout="soon")


@every_way
def test_the_deadline_ends_the_call(side: Side, way: Way) -> None:
    ended = threading.Event()

    def wait(request: bytes, context: Context) -> bytes:
        if not context.add_callback(ended.set):
            # It has begun too late, and hears that at once.
            assert not context.is_active()
            ended.set()
        assert ended.wait(LONG)
        return b""

    way.served(side, wait)
    assert way.failure(way.multicallable(side.channel), timeout=0.5).code() is StatusCode.DEADLINE_EXCEEDED
    assert ended.wait(LONG), "the servicer was not told"


# -- arguments ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_compression_is_accepted(side: Side, way: Way, compression: grpc.Compression) -> None:
    way.served(side, echo)
    assert way.run(way.multicallable(side.channel), bytes(5000), compression=compression) == bytes(5000)


@every_way
def test_call_credentials_need_a_secure_channel(side: Side, way: Way) -> None:
    way.served(side, echo)
    credentials = grpc.access_token_call_credentials("token")
    error = way.failure(way.multicallable(side.channel), credentials=credentials)
    assert error.code() is StatusCode.UNAUTHENTICATED
    assert "sufficient security level" in error.details()


@every_way
def test_wait_for_ready_is_accepted_of_a_server_that_runs(side: Side, way: Way) -> None:
    way.served(side, echo)
    for wait in (True, False, None):
        assert way.run(way.multicallable(side.channel), b"x", wait_for_ready=wait) == b"x"


@every_way
def test_unknown_arguments_are_refused(side: Side, way: Way) -> None:
    way.served(side, echo)
    with pytest.raises(TypeError):
        way.begin(way.multicallable(side.channel), nonsense=1)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_what_generated_code_passes(side: Side, kind: str) -> None:
    way = Way(kind, "call")
    way.served(side, echo)
    make = getattr(side.channel, kind)
    assert way.run(make(PATH, request_serializer=None, response_deserializer=None, _registered_method=True)) == b""
    assert way.run(make(PATH, None, None, True)) == b""
    name = "request_iterator" if way.sends_stream else "request"
    argument = iter([b"x"]) if way.sends_stream else b"x"
    nones = dict.fromkeys(("timeout", "metadata", "credentials", "wait_for_ready", "compression"))
    got = make(PATH)(**{name: argument}, **nones)
    assert list(got) == [b"x"] if way.gets_stream else got == b"x"


def test_the_methods_name_may_be_bytes(side: Side) -> None:
    assert side.channel.unary_unary(b"/conformance.v1.Echo/UnaryEcho")(b"x", timeout=LONG) == b"x"
