"""The servicer's context: metadata, callbacks, who calls, how long yet."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import ENOUGH, LONG, OLD_GRPCIO, stream, unary
from grpc import StatusCode

Context = Any  # a grpc.ServicerContext, of which the stubs do not know all


def test_what_was_set_can_be_had(side: Side) -> None:
    seen: list[Any] = []

    def behavior(request: bytes, context: Context) -> bytes:
        seen.append((context.code(), context.details(), context.trailing_metadata()))
        context.set_code(StatusCode.NOT_FOUND)
        context.set_details("smile ☺")
        context.set_trailing_metadata([("a", "b")])
        seen.append((context.code(), context.details(), context.trailing_metadata()))
        context.set_code(5)
        seen.append(context.code())
        with contextlib.suppress(Exception):
            context.abort(StatusCode.DATA_LOSS, "over")
        seen.append((context.code(), context.details()))
        return b""

    assert unary(side.serve("unary_unary", behavior)) == (StatusCode.DATA_LOSS, "over")
    assert seen == [
        (None, None, None),
        (StatusCode.NOT_FOUND, "smile ☺".encode(), [("a", "b")]),
        5,
        (StatusCode.DATA_LOSS, b"over"),
    ]


def test_initial_metadata_once(side: Side) -> None:
    refused: list[str] = []

    def again(context: Context) -> None:
        try:
            context.send_initial_metadata([("x-again", "2")])
        except ValueError as error:
            refused.append(str(error))

    def once(request: bytes, context: Context) -> bytes:
        context.send_initial_metadata([("x-first", "1")])
        again(context)
        return b""

    def after_a_message(request: bytes, context: Context) -> Iterator[bytes]:
        yield b"1"
        again(context)

    _, call = side.serve("unary_unary", once).with_call(b"", timeout=LONG)
    assert [tuple(entry) for entry in call.initial_metadata() if entry.key.startswith("x-")] == [("x-first", "1")]
    assert stream(side.serve("unary_stream", after_a_message)) == ([b"1"], StatusCode.OK, "")
    assert refused == ["Initial metadata no longer allowed!"] * 2


def sends_initial(metadata: Any) -> Callable[..., bytes]:
    def behavior(request: bytes, context: Context) -> bytes:
        context.send_initial_metadata(metadata)
        return b"answer"

    return behavior


def sends_trailing(metadata: Any) -> Callable[..., bytes]:
    def behavior(request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(metadata)
        return b"answer"

    return behavior


@pytest.mark.parametrize("sends", [sends_initial, sends_trailing])
@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        (None, None),
        ((), None),
        ([("key", "value")], None),
        ([(b"key", b"value")], None),
        ([("key", "")], None),
        ([("key-bin", bytes(range(256)))], None),
        ([("UPPER", "v")], StatusCode.INTERNAL),
        ([("", "v")], StatusCode.INTERNAL),
        ([("key", "new\nline")], StatusCode.INTERNAL),
        ([("key", "ü")], StatusCode.INTERNAL),
        ([("key", "v" * 20000)], StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_metadata_of_the_servicer(side: Side, sends: Callable[..., Any], metadata: Any, code: Any) -> None:
    if code is StatusCode.INTERNAL and side.name == "grpcio" and OLD_GRPCIO:
        pytest.skip("this release of grpcio never answers such a call")
    outcome = unary(side.serve("unary_unary", sends(metadata)))
    assert outcome[0] == (b"answer" if code is None else code)
    if code is StatusCode.INTERNAL:
        assert outcome[1] == "Invalid metadata"


@pytest.mark.parametrize("metadata", [[("key", 5)], [("key-bin", "text")], 5, {"key": "value"}])
@pytest.mark.parametrize("sends", [sends_initial, sends_trailing])
def test_what_is_no_metadata(side: Side, sends: Callable[..., Any], metadata: Any) -> None:
    if side.name == "grpcio" and sends is sends_trailing:
        pytest.skip("grpcio never answers such a call (seen with 1.85.1)")
    code, details = unary(side.serve("unary_unary", sends(metadata)))
    assert code is StatusCode.UNKNOWN
    assert details.startswith("Exception calling application: ")


def test_invocation_metadata(side: Side) -> None:
    seen: list[Any] = []

    def behavior(request: bytes, context: Context) -> bytes:
        seen.extend(entry for entry in context.invocation_metadata() if entry.key.startswith("x-"))
        return b""

    sent = (("x-many", "b"), ("x-many", "a"), ("x-raw-bin", b"\x00\xff"))
    unary(side.serve("unary_unary", behavior), metadata=sent)
    assert [(entry.key, entry.value) for entry in seen] == list(sent)
    assert [tuple(entry) for entry in seen] == list(sent)


def test_who_calls(side: Side) -> None:
    seen: list[Any] = []

    def behavior(request: bytes, context: Context) -> bytes:
        identities = context.peer_identities()
        key = context.peer_identity_key()
        seen.append((context.peer(), identities, key, context.auth_context()))
        return b""

    unary(side.serve("unary_unary", behavior))
    ((peer, identities, key, auth),) = seen
    assert peer.partition(":")[0] in {"ipv4", "ipv6", "unix"}
    assert (identities is None) == (key is None)
    if key is not None:
        assert auth[key] == identities
    assert all(isinstance(name, str) and isinstance(value, bytes) for name, values in auth.items() for value in values)
    assert auth["transport_security_type"]


def test_servicer_cancels(side: Side) -> None:
    seen: list[Any] = []
    over = threading.Event()

    def behavior(request: bytes, context: Context) -> bytes:
        cancelled = threading.Event()
        context.add_callback(cancelled.set)
        context.cancel()
        assert cancelled.wait(LONG)
        context.cancel()
        seen.append(context.is_active())
        seen.append(context.add_callback(over.set))
        try:
            context.send_initial_metadata([("a", "b")])
        except grpc.RpcError:
            seen.append("RpcError")
        over.set()
        return b"late"

    assert unary(side.serve("unary_unary", behavior)) == (StatusCode.CANCELLED, "CANCELLED")
    assert over.wait(LONG)
    assert seen == [False, False, "RpcError"]


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_callbacks(side: Side, kind: str) -> None:
    """In their order, whatever one of them raises, and when the call is over."""
    seen: list[Any] = []
    over = threading.Event()

    def behavior(request: Any, context: Context) -> Any:
        def first() -> None:
            seen.append(("first", context.is_active(), context.add_callback(over.set)))
            raise RuntimeError("of a callback")

        def second() -> None:
            seen.append("second")
            over.set()

        assert context.add_callback(first)
        assert context.add_callback(second)
        assert context.is_active()
        seen.append("handler")
        return iter((b"",)) if kind.endswith("stream") else b""

    call = side.serve(kind, behavior)
    request: Any = iter((b"",)) if kind.startswith("stream") else b""
    (stream if kind.endswith("stream") else unary)(call, request)
    assert over.wait(LONG)
    assert seen == ["handler", ("first", False, False), "second"]


def test_callbacks_when_the_caller_cancels(side: Side) -> None:
    entered, over = threading.Event(), threading.Event()
    seen: list[Any] = []

    def behavior(request: bytes, context: Context) -> bytes:
        context.add_callback(over.set)
        entered.set()
        assert over.wait(LONG)
        seen.append((context.is_active(), context.add_callback(over.set)))
        return b""

    future = side.serve("unary_unary", behavior).future(b"", timeout=LONG)
    assert entered.wait(LONG)
    future.cancel()
    assert over.wait(LONG)
    side.server.stop(LONG).wait(LONG)
    assert future.code() is StatusCode.CANCELLED


def test_no_time_remains(side: Side) -> None:
    seen: list[float] = []
    over = threading.Event()

    def behavior(request: bytes, context: Context) -> bytes:
        expired = threading.Event()
        context.add_callback(expired.set)
        seen.append(context.time_remaining())
        assert expired.wait(LONG)
        seen.append(context.time_remaining())
        over.set()
        return b""

    with pytest.raises(grpc.RpcError) as raised:
        side.serve("unary_unary", behavior)(b"", timeout=ENOUGH)
    assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert over.wait(LONG)
    # Two clocks may differ by a little.
    assert 0 < seen[0] <= ENOUGH + 0.01
    assert 0 <= seen[1] < 0.05


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_compression(side: Side, compression: grpc.Compression) -> None:
    def behavior(request: bytes, context: Context) -> Iterator[bytes]:
        context.set_compression(compression)
        yield request
        context.disable_next_message_compression()
        yield request

    assert stream(side.serve("unary_stream", behavior), bytes(5000)) == ([bytes(5000)] * 2, StatusCode.OK, "")


def test_handler_that_keeps_a_stream_without_a_thread(start: Callable[..., Side]) -> None:
    """grpcio-health-checking's Watch is of this sort."""
    side = start(threads=1, maximum_concurrent_rpcs=1)
    over = threading.Event()
    kept: list[Callable[[Any], None]] = []

    def behavior(request: bytes, context: Context, send: Callable[[Any], None]) -> None:
        context.add_callback(over.set)
        send(b"at once")
        kept.append(send)

    behavior.experimental_non_blocking = True  # type: ignore[attr-defined]
    call = side.serve("unary_stream", behavior)(b"", timeout=LONG)
    assert next(call) == b"at once"
    echo = side.unary("UnaryEcho")
    answer = unary(echo, b"goes on")
    while answer[0] is StatusCode.RESOURCE_EXHAUSTED:  # until the handler has returned
        answer = unary(echo, b"goes on")
    assert answer == (b"goes on",)
    kept[0](b"later")
    assert next(call) == b"later"
    kept[0](None)
    assert list(call) == []
    assert call.code() is StatusCode.OK
    assert over.wait(LONG)
    kept[0](b"too late")


def test_stop_ends_streams_that_no_thread_keeps(side: Side) -> None:
    over = threading.Event()

    def behavior(request: bytes, context: Context, send: Callable[[Any], None]) -> None:
        context.add_callback(over.set)
        send(b"at once")

    behavior.experimental_non_blocking = True  # type: ignore[attr-defined]
    call = side.serve("unary_stream", behavior)(b"", timeout=LONG)
    assert next(call) == b"at once"
    side.server.stop(None)
    assert call.code() is StatusCode.UNAVAILABLE
    assert over.wait(LONG)


def test_handlers_variables_are_of_its_call_only(side: Side) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def behavior(request: bytes, context: Context) -> Iterator[bytes]:
        yield variable.get().encode()
        variable.set("set")
        yield variable.get().encode()

    call = side.serve("unary_stream", behavior)
    for _ in range(3):
        assert stream(call)[0] == [b"unset", b"set"]
    one = side.serve("unary_unary", lambda request, context: f"{variable.get()} {variable.set('set')}".encode()[:5])
    assert {unary(one) for _ in range(3)} == {(b"unset",)}
