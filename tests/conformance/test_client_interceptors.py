"""`grpc.intercept_channel` over our channel, as over grpcio's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from conformance.conftest import Side
from conformance.ways import PATH, Way, every_way
from grpc import StatusCode

Continuation = Callable[[Any, Any], Any]


class Details(NamedTuple):
    """What an interceptor passes on in the place of what it was given."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Of all four kinds, by one function of continuation, details, request."""

    def __init__(self, behavior: Callable[[Continuation, Any, Any], Any]) -> None:
        self._behavior = behavior

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._behavior(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._behavior(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._behavior(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._behavior(continuation, client_call_details, request_iterator)


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


def intercepted(side: Side, way: Way, *behaviors: Callable[[Continuation, Any, Any], Any]) -> Any:
    return way.multicallable(grpc.intercept_channel(side.channel, *map(Interceptor, behaviors)))


@every_way
def test_they_run_in_order(side: Side, way: Way) -> None:
    way.served(side, echo)
    order: list[str] = []

    def noting(name: str) -> Callable[[Continuation, Any, Any], Any]:
        def behavior(continuation: Continuation, details: Any, request: Any) -> Any:
            order.append(name)
            call = continuation(details, request)
            order.append(f"after {name}")
            return call

        return behavior

    assert way.run(intercepted(side, way, noting("a"), noting("b")), b"x") == b"x"
    assert order == ["a", "b", "after b", "after a"]


@every_way
def test_what_they_are_told(side: Side, way: Way) -> None:
    way.served(side, echo)
    told: list[Any] = []

    def behavior(continuation: Continuation, details: Any, request: Any) -> Any:
        told.append(details)
        return continuation(details, request)

    given = {"timeout": 20.0, "metadata": (("x-a", "1"),), "wait_for_ready": True}
    way.run(intercepted(side, way, behavior), b"x", **given)
    (details,) = told
    assert details.method == PATH
    assert {name: getattr(details, name) for name in given} == given
    assert (details.credentials, details.compression) == (None, None)


@every_way
def test_one_may_change_request_and_details(side: Side, way: Way) -> None:
    got: list[tuple[str, str | bytes]] = []

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        got.extend((key, value) for key, value in context.invocation_metadata() if key.startswith("x-"))
        return request

    def changing(continuation: Continuation, details: Any, request: Any) -> Any:
        changed = Details(PATH, details.timeout, [("x-a", "1")], None, details.wait_for_ready, details.compression)
        return continuation(changed, iter([b"changed"]) if way.sends_stream else b"changed")

    way.served(side, behavior)
    multicallable = intercepted(side, way, changing)
    assert way.run(multicallable, b"x") == b"changed"
    assert got == [("x-a", "1")]


@every_way
def test_one_may_change_the_method(side: Side, way: Way) -> None:
    way.served(side, echo)

    def elsewhere(continuation: Continuation, details: Any, request: Any) -> Any:
        return continuation(details._replace(method="/conformance.v1.Echo/Missing"), request)

    assert way.failure(intercepted(side, way, elsewhere)).code() is StatusCode.UNIMPLEMENTED


class Made:
    """What an interceptor answers by itself: as much of a call as is asked of it."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"made"])

    def result(self) -> bytes:
        return b"made"


@every_way
def test_one_may_answer_by_itself(side: Side, way: Way) -> None:
    way.served(side, echo)
    assert way.run(intercepted(side, way, lambda *_: Made()), b"x") == b"made"


@every_way
def test_one_that_raises(side: Side, way: Way) -> None:
    way.served(side, echo)

    def failing(*_: Any) -> Any:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        way.run(intercepted(side, way, failing))


@every_way
def test_one_sees_the_error(side: Side, way: Way) -> None:
    def refusing(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(StatusCode.DATA_LOSS, "lost")

    way.served(side, refusing)
    seen: list[tuple[StatusCode, str]] = []

    def looking(continuation: Continuation, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        if not way.gets_stream:
            seen.append((call.code(), call.details()))
            assert call.exception() is call
            assert isinstance(call, grpc.RpcError)
        return call

    assert way.failure(intercepted(side, way, looking)).code() is StatusCode.DATA_LOSS
    assert seen == ([] if way.gets_stream else [(StatusCode.DATA_LOSS, "lost")])


@every_way
def test_one_may_try_again(side: Side, way: Way) -> None:
    attempts: list[bytes] = []

    def failing_once(request: bytes, context: grpc.ServicerContext) -> bytes:
        attempts.append(request)
        if len(attempts) == 1:
            context.abort(StatusCode.UNAVAILABLE, "not yet")
        return request

    way.served(side, failing_once)

    def again(continuation: Continuation, details: Any, request: Any) -> Any:
        requests = list(request) if way.sends_stream else request
        for _ in range(2):
            call = continuation(details, iter(requests) if way.sends_stream else requests)
            if way.gets_stream:
                try:
                    return iter(list(call))
                except grpc.RpcError:
                    continue
            if call.code() is StatusCode.OK:
                return call
        raise AssertionError("it failed twice")

    assert way.run(intercepted(side, way, again), b"x") == b"x"
    assert attempts == [b"x", b"x"]


@every_way
def test_one_may_wrap_the_responses(side: Side, way: Way) -> None:
    way.served(side, echo)

    def wrapping(continuation: Continuation, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        if not way.gets_stream:
            return call
        return (response + b"!" for response in call)

    assert way.run(intercepted(side, way, wrapping), b"x") == (b"x!" if way.gets_stream else b"x")


def test_what_is_no_interceptor(side: Side) -> None:
    with pytest.raises(TypeError):
        grpc.intercept_channel(side.channel, object())


def test_an_intercepted_channel_is_a_channel(side: Side) -> None:
    way = Way("unary_unary", "call")
    way.served(side, echo)
    with grpc.intercept_channel(
        side.channel, Interceptor(lambda go, details, request: go(details, request))
    ) as channel:
        assert isinstance(channel, grpc.Channel)
        assert way.run(way.multicallable(channel), b"x") == b"x"
    with pytest.raises(ValueError, match="Cannot invoke RPC"):
        way.run(way.multicallable(side.channel))
