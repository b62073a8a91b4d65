"""What a servicer does with its context, and what its caller sees of that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import LONG, stream, unary
from grpc import StatusCode
from plugins.leaks import LEDGER, fds

Context = grpc.ServicerContext


class Status(grpc.Status):
    """What `abort_with_status` takes."""

    def __init__(self, code: Any, details: Any, trailing: Any = None) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing


def aborting(code: Any, details: Any) -> Callable[..., Any]:
    def behavior(request: bytes, context: Context) -> bytes:
        context.abort(code, details)

    return behavior


def no_encode(kind: str) -> str:
    return f"Exception calling application: '{kind}' object has no attribute 'encode'"


@pytest.mark.parametrize(
    ("code", "details", "seen"),
    [(code, "why", (code, "why")) for code in StatusCode if code is not StatusCode.OK]
    + [
        (StatusCode.OK, "why", (StatusCode.UNKNOWN, "")),
        (5, "an int", (StatusCode.UNKNOWN, "an int")),
        (0, "a zero", (StatusCode.UNKNOWN, "a zero")),
        (None, "none", (StatusCode.UNKNOWN, "none")),
        ("NOT_FOUND", "a text", (StatusCode.UNKNOWN, "a text")),
        (StatusCode.NOT_FOUND, "", (StatusCode.NOT_FOUND, "")),
        (StatusCode.NOT_FOUND, b"bytes", (StatusCode.NOT_FOUND, "bytes")),
        (StatusCode.NOT_FOUND, "umlaut ü, smile ☺", (StatusCode.NOT_FOUND, "umlaut ü, smile ☺")),
        (StatusCode.NOT_FOUND, None, (StatusCode.NOT_FOUND, no_encode("NoneType"))),
        (StatusCode.NOT_FOUND, 5, (StatusCode.NOT_FOUND, no_encode("int"))),
    ],
)
def test_abort(side: Side, code: Any, details: Any, seen: tuple[Any, ...]) -> None:
    assert unary(side.serve("unary_unary", aborting(code, details))) == seen
    in_stream = stream(side.serve("unary_stream", aborting(code, details), f"/{side.service}/Down"))
    assert in_stream == ([], *seen)


def test_abort_raises_a_bare_exception(side: Side) -> None:
    raised: list[BaseException] = []

    def behavior(request: bytes, context: Context) -> bytes:
        try:
            context.abort(StatusCode.NOT_FOUND, "first")
        except Exception as error:
            raised.append(error)
        context.abort(StatusCode.DATA_LOSS, "second")

    assert unary(side.serve("unary_unary", behavior)) == (StatusCode.DATA_LOSS, "second")
    assert [(type(error), error.args) for error in raised] == [(Exception, ())]


@pytest.mark.parametrize("answer", [b"an answer", None])
def test_abort_that_is_swallowed(side: Side, answer: Any) -> None:
    def behavior(request: bytes, context: Context) -> Any:
        try:
            context.abort(StatusCode.NOT_FOUND, "swallowed")
        except Exception:
            return answer

    assert unary(side.serve("unary_unary", behavior)) == (StatusCode.NOT_FOUND, "swallowed")


def test_abort_that_a_generator_swallows(side: Side) -> None:
    def behavior(request: bytes, context: Context) -> Iterator[bytes]:
        yield b"1"
        try:
            context.abort(StatusCode.NOT_FOUND, "swallowed")
        except Exception:
            yield b"2"

    assert stream(side.serve("unary_stream", behavior)) == ([b"1", b"2"], StatusCode.NOT_FOUND, "swallowed")


def test_abort_with_status(side: Side) -> None:
    def behavior(request: bytes, context: Context) -> bytes:
        context.abort_with_status(Status(StatusCode.DATA_LOSS, "lost", (("x-how", "much"),)))

    with pytest.raises(grpc.RpcError) as raised:
        side.serve("unary_unary", behavior)(b"", timeout=LONG)
    assert (raised.value.code(), raised.value.details()) == (StatusCode.DATA_LOSS, "lost")
    assert ("x-how", "much") in [tuple(entry) for entry in raised.value.trailing_metadata()]


@pytest.mark.parametrize(
    ("given", "missing"),
    [(None, "'NoneType' object has no attribute 'trailing_metadata'"), (StatusCode.NOT_FOUND, "trailing_metadata")],
)
def test_abort_with_something_else(side: Side, given: Any, missing: str) -> None:
    def behavior(request: bytes, context: Context) -> bytes:
        context.abort_with_status(given)

    code, details = unary(side.serve("unary_unary", behavior))
    assert code is StatusCode.UNKNOWN
    assert details.startswith("Exception calling application: ")
    assert missing in details


def setting(*, code: Any = ..., details: Any = ..., then: Any = b"answer") -> Callable[..., Any]:
    """Sets these and returns `then`, or raises it."""

    def behavior(request: bytes, context: Context) -> Any:
        if code is not ...:
            context.set_code(code)
        if details is not ...:
            context.set_details(details)
        if isinstance(then, BaseException):
            raise type(then)(*then.args)  # a new one: the traceback of what is kept keeps the call
        return then

    return behavior


APPLICATION = "Exception calling application: oops"


class Unprintable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("behavior", "seen"),
    [
        (setting(code=None), (b"answer",)),
        (setting(code=StatusCode.OK), (b"answer",)),
        (setting(details="never seen"), (b"answer",)),
        (setting(code=StatusCode.NOT_FOUND), (StatusCode.NOT_FOUND, "")),
        (setting(code=StatusCode.NOT_FOUND, details="gone"), (StatusCode.NOT_FOUND, "gone")),
        (setting(code=StatusCode.NOT_FOUND, details=b"gone"), (StatusCode.NOT_FOUND, "gone")),
        (setting(code=StatusCode.NOT_FOUND, details=None), (StatusCode.NOT_FOUND, no_encode("NoneType"))),
        (setting(code=StatusCode.NOT_FOUND, details=7), (StatusCode.NOT_FOUND, no_encode("int"))),
        (setting(code=5), (StatusCode.UNKNOWN, "")),
        (setting(code=0), (StatusCode.UNKNOWN, "")),
        (setting(code="NOT_FOUND", details="text"), (StatusCode.UNKNOWN, "text")),
        # What was set goes before what an error would say.
        (setting(code=StatusCode.NOT_FOUND, then=None), (StatusCode.NOT_FOUND, "Failed to serialize response!")),
        (setting(code=StatusCode.NOT_FOUND, details="gone", then=None), (StatusCode.NOT_FOUND, "gone")),
        (setting(details="gone", then=None), (StatusCode.INTERNAL, "gone")),
        (setting(then=None), (StatusCode.INTERNAL, "Failed to serialize response!")),
        (setting(then=ValueError("oops")), (StatusCode.UNKNOWN, APPLICATION)),
        (setting(code=StatusCode.NOT_FOUND, then=ValueError("oops")), (StatusCode.NOT_FOUND, APPLICATION)),
        (setting(details="set", then=ValueError("oops")), (StatusCode.UNKNOWN, "set")),
        (setting(code=5, details="set", then=ValueError("oops")), (StatusCode.UNKNOWN, "set")),
        (setting(then=StopIteration("oops")), (StatusCode.UNKNOWN, APPLICATION)),
        (setting(then=grpc.RpcError("oops")), (StatusCode.UNKNOWN, APPLICATION)),
        (setting(then=ValueError()), (StatusCode.UNKNOWN, "Exception calling application: ")),
        (
            setting(then=Unprintable()),
            (StatusCode.UNKNOWN, "Calling application raised unprintable Exception!"),
        ),
    ],
)
def test_what_a_handler_sets_and_does(side: Side, behavior: Callable[..., Any], seen: tuple[Any, ...]) -> None:
    assert unary(side.serve("unary_unary", behavior)) == seen


@pytest.mark.parametrize("then", [ValueError("oops"), None])
def test_ok_and_no_answer_after_all(side: Side, then: Any) -> None:
    """grpcio's caller takes it for a success, with None for an answer; ours learns of the error."""
    seen = unary(side.serve("unary_unary", setting(code=StatusCode.OK, then=then)))
    failed = (
        (StatusCode.INTERNAL, "Failed to serialize response!") if then is None else (StatusCode.UNKNOWN, APPLICATION)
    )
    assert seen == ((None,) if side.name == "grpcio" else failed)


def yielding(*items: Any, code: Any = ..., details: Any = ...) -> Callable[..., Any]:
    """Yields these, and raises those that are errors."""

    def behavior(request: bytes, context: Context) -> Iterator[Any]:
        for item in items:
            if isinstance(item, BaseException):
                raise type(item)(*item.args)  # a new one: the traceback of what is kept keeps the call
            yield item
        if code is not ...:
            context.set_code(code)
        if details is not ...:
            context.set_details(details)

    return behavior


def returning(value: Any) -> Callable[..., Any]:
    return setting(then=value)


ITERATING = "Exception iterating responses: "


@pytest.mark.parametrize(
    ("behavior", "seen"),
    [
        (yielding(), ([], StatusCode.OK, "")),
        (yielding(b"1", b"2"), ([b"1", b"2"], StatusCode.OK, "")),
        (yielding(b"1", code=StatusCode.NOT_FOUND, details="more"), ([b"1"], StatusCode.NOT_FOUND, "more")),
        (yielding(b"1", code=9), ([b"1"], StatusCode.UNKNOWN, "")),
        (yielding(ValueError("oops")), ([], StatusCode.UNKNOWN, ITERATING + "oops")),
        (yielding(b"1", ValueError("oops")), ([b"1"], StatusCode.UNKNOWN, ITERATING + "oops")),
        (yielding(b"1", grpc.RpcError("oops")), ([b"1"], StatusCode.UNKNOWN, ITERATING + "oops")),
        (yielding(b"1", None, b"2"), ([b"1"], StatusCode.OK, "")),
        (lambda request, context: iter((b"1", b"2")), ([b"1", b"2"], StatusCode.OK, "")),
        (returning([b"1"]), ([], StatusCode.UNKNOWN, ITERATING + "'list' object is not an iterator")),
        (returning(None), ([], StatusCode.UNKNOWN, ITERATING + "'NoneType' object is not an iterator")),
        (returning(ValueError("oops")), ([], StatusCode.UNKNOWN, APPLICATION)),
    ],
)
def test_what_a_generator_sets_and_does(side: Side, behavior: Callable[..., Any], seen: tuple[Any, ...]) -> None:
    assert stream(side.serve("unary_stream", behavior)) == seen


@pytest.fixture
def leaky(side: Side, request: pytest.FixtureRequest) -> Iterator[None]:
    """grpcio (1.85.1) keeps a call whose request did not parse, and with it its runtime's descriptors, to the end."""
    yield
    if side.name == "grpcio":
        request.config.stash[LEDGER].known |= {key for key in fds() if "[event" in str(key)}


def broken(data: Any) -> Any:
    raise ValueError("broken")


@pytest.mark.usefixtures("leaky")
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
@pytest.mark.parametrize("deserialize", [broken, lambda data: None], ids=["raises", "None"])
def test_request_that_does_not_parse(side: Side, kind: str, deserialize: Callable[..., Any]) -> None:
    called: list[object] = []

    def behavior(request: object, context: Context) -> Any:
        called.append(request)
        return iter(())

    call = side.serve(kind, behavior, request_deserializer=deserialize)
    outcome = unary(call) if kind == "unary_unary" else stream(call)[1:]
    assert outcome == (StatusCode.INTERNAL, "Exception deserializing request!")
    assert not called


@pytest.mark.parametrize("data", [b"bad", bytes(5 << 20)], ids=["does not parse", "too large"])
def test_request_in_a_stream_that_cannot_be_had(side: Side, data: bytes) -> None:
    """The call is over; to the handler, a request that does not parse looks like the end."""
    if side.name == "grpcio":
        pytest.skip("now and then, grpcio's handler waits for ever (seen with 1.72.1 and 1.85.1)")
    got: list[Any] = []
    ended = threading.Event()

    def deserialize(data: bytes) -> bytes:
        if data == b"bad":
            raise ValueError
        return data

    def behavior(requests: Iterator[bytes], context: Context) -> bytes:
        try:
            got.extend(requests)
            got.append("end")
        except grpc.RpcError:
            got.append("error")
        got.append(context.is_active())
        ended.set()
        return b"late"

    call = side.serve("stream_unary", behavior, request_deserializer=deserialize)
    code, details = unary(call, iter([b"1", data, b"3"]))
    if data == b"bad":
        assert (code, details) == (StatusCode.INTERNAL, "Exception deserializing request!")
    else:
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert f"Received message larger than max ({len(data)} vs. {4 << 20})" in details
    assert ended.wait(LONG)
    assert got == [b"1", "end" if data == b"bad" else "error", False]


@pytest.mark.parametrize(("kind", "answers"), [("unary_unary", None), ("unary_stream", [])])
def test_response_that_does_not_serialize(side: Side, kind: str, answers: Any) -> None:
    def behavior(request: bytes, context: Context) -> Any:
        return b"" if answers is None else iter((b"1", b"2"))

    call = side.serve(kind, behavior, response_serializer=broken)
    failed = (StatusCode.INTERNAL, "Failed to serialize response!")
    assert (unary(call) if answers is None else stream(call)) == (failed if answers is None else (answers, *failed))


def test_no_request_where_there_must_be_one(side: Side) -> None:
    side.serve("unary_unary", lambda request, context: request)
    call = side.channel.stream_unary(f"/{side.service}/Served")
    code, details = unary(call, iter(()))
    assert code is StatusCode.UNIMPLEMENTED
    assert "requires exactly one request message." in details


def test_two_requests_where_one_is_enough(side: Side) -> None:
    side.serve("unary_unary", lambda request, context: request)
    assert unary(side.channel.stream_unary(f"/{side.service}/Served"), iter((b"1", b"2"))) == (b"1",)


def test_handler_that_stops_early(side: Side) -> None:
    call = side.serve("stream_stream", lambda requests, context: iter((next(requests), b"enough")))
    assert stream(call, iter((b"1", b"2", b"3"))) == ([b"1", b"enough"], StatusCode.OK, "")


def test_handler_that_takes_no_request(side: Side) -> None:
    call = side.serve("stream_unary", lambda requests, context: b"enough")
    assert unary(call, iter([bytes(1000)] * 50)) == (b"enough",)


def test_further_looks_for_requests_find_none(side: Side) -> None:
    def behavior(requests: Iterator[bytes], context: Context) -> bytes:
        found = [list(requests), list(requests), next(requests, "none")]
        return repr(found).encode()

    assert unary(side.serve("stream_unary", behavior), iter((b"1",))) == (repr([[b"1"], [], "none"]).encode(),)
