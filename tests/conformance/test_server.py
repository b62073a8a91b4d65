"""What a server serves: handlers however registered, interceptors, limits."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import LONG, OLD_GRPCIO, stream, unary
from grpc import StatusCode

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
LIMIT = (StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
NOT_FOUND = (StatusCode.UNIMPLEMENTED, "Method not found!")
LOOKUP_FAILED = (StatusCode.UNKNOWN, "Error in service handler!")
Context = grpc.ServicerContext


def answers(kind: str, answer: bytes) -> Any:
    """A handler."""
    many = kind.endswith("stream")
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(lambda request, context: iter((answer,)) if many else answer)


def asked(kind: str, call: Any) -> Any:
    """The call's one answer, or code and details."""
    request = iter((b"",)) if kind.startswith("stream") else b""
    if kind.endswith("unary"):
        outcome = unary(call, request)
        return outcome[0] if len(outcome) == 1 else outcome
    got, code, details = stream(call, request)
    return got[0] if code is StatusCode.OK else (code, details)


class Named(grpc.GenericRpcHandler):
    """Handlers by full names, of a service that the server can tell of."""

    def __init__(self, service: str, handlers: dict[str, Any]) -> None:
        self._service = service
        self.handlers = handlers
        self.asked: list[grpc.HandlerCallDetails] = []

    def service_name(self) -> str:
        return self._service

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.asked.append(handler_call_details)
        found = self.handlers.get(handler_call_details.method)
        if isinstance(found, Exception):
            raise type(found)(*found.args)
        return found


# -- handlers ---------------------------------------------------------------------------------------------------------


def test_late_generic_handlers_are_found(side: Side) -> None:
    late = Named("late.v1.Late", {"/late.v1.Late/Do": answers("unary_unary", b"late")})
    side.server.add_generic_rpc_handlers((late,))
    assert unary(side.channel.unary_unary("/late.v1.Late/Do")) == (b"late",)
    (details,) = late.asked
    assert details.method == "/late.v1.Late/Do"


def test_late_registered_handlers_are_ignored(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        side.server.add_registered_method_handlers(side.service, {"Late": answers("unary_unary", b"late")})
    silent = side.name == "grpcio" and OLD_GRPCIO
    assert [record.levelname for record in caplog.records] == ([] if silent else ["WARNING"])
    assert unary(side.unary("Late")) == NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_registered_handlers_win(start: Callable[..., Side], kind: str) -> None:
    def register(server: grpc.Server) -> None:
        server.add_registered_method_handlers("conformance.v1.Echo", {"Served": answers(kind, b"registered")})

    side = start(register=register)
    assert asked(kind, side.serve(kind, lambda request, context: b"generic")) == b"registered"
    method = f"/{side.service}/Served"
    assert asked(kind, getattr(side.channel, kind)(method, _registered_method=True)) == b"registered"


def test_first_generic_handler_wins(start: Callable[..., Side]) -> None:
    one = Named("two.v1.Two", {"/two.v1.Two/A": answers("unary_unary", b"one")})
    two = Named("two.v1.Two", {f"/two.v1.Two/{name}": answers("unary_unary", b"two") for name in "AB"})
    side = start(register=lambda server: server.add_generic_rpc_handlers((one, two)))
    assert unary(side.channel.unary_unary("/two.v1.Two/A")) == (b"one",)
    assert unary(side.channel.unary_unary("/two.v1.Two/B")) == (b"two",)


def test_generic_handler_may_answer_differently_each_time(side: Side) -> None:
    call = side.unary("Served")
    for n in range(3):
        side.serve("unary_unary", lambda request, context, n=n: b"%d" % n)
        assert unary(call) == (b"%d" % n,)
    side.echo.handlers.clear()
    assert unary(call) == NOT_FOUND


def test_generic_handler_that_raises(side: Side) -> None:
    side.server.add_generic_rpc_handlers((Named("bad.v1.Bad", {"/bad.v1.Bad/Do": ValueError("oops")}),))
    assert unary(side.channel.unary_unary("/bad.v1.Bad/Do")) == LOOKUP_FAILED
    assert unary(side.unary("UnaryEcho"), b"lives") == (b"lives",)


def test_what_is_no_generic_handler(side: Side) -> None:
    late = Named("late.v1.Late", {"/late.v1.Late/Do": answers("unary_unary", b"late")})
    with pytest.raises(AttributeError, match='does not have "service" method'):
        side.server.add_generic_rpc_handlers((late, object()))
    assert not late.asked


@pytest.mark.parametrize(
    ("service", "method"),
    [("", "/method"), ("", "//method"), ("", "method"), ("a/b", "/a/b/method"), ("a", "/a/")],
)
def test_unusual_names(start: Callable[..., Side], service: str, method: str) -> None:
    named = Named(service, {method: answers("unary_unary", b"found")})
    side = start(register=lambda server: server.add_generic_rpc_handlers((named,)))
    assert unary(side.channel.unary_unary(method)) == (b"found",)


def test_registered_without_a_service(start: Callable[..., Side]) -> None:
    handlers = {"method": answers("unary_unary", b"found")}
    side = start(register=lambda server: server.add_registered_method_handlers("", handlers))
    assert unary(side.channel.unary_unary("//method")) == (b"found",)


# -- interceptors -----------------------------------------------------------------------------------------------------


class Interceptor(grpc.ServerInterceptor):
    """Does as it is told."""

    def __init__(self, intercept: Callable[..., Any]) -> None:
        self._intercept = intercept

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return self._intercept(continuation, handler_call_details)


@pytest.mark.parametrize("kind", KINDS)
def test_interceptors_wrap_handlers_in_their_order(start: Callable[..., Side], kind: str) -> None:
    many_in, many_out = kind.startswith("stream"), kind.endswith("stream")
    seen: list[Any] = []

    def named(name: str) -> Interceptor:
        def intercept(continuation: Any, details: Any) -> Any:
            seen.append((name, details.method))
            handler = continuation(details)
            assert (handler.request_streaming, handler.response_streaming) == (many_in, many_out)
            behavior = getattr(handler, kind)

            def wrapped(request: Any, context: Context) -> Any:
                seen.append(name)
                return behavior(request, context)

            make = getattr(grpc, f"{kind}_rpc_method_handler")
            return make(wrapped, handler.request_deserializer, handler.response_serializer)

        return Interceptor(intercept)

    side = start(interceptors=(named("a"), named("b")))

    def behavior(request: Any, context: Context) -> Any:
        seen.append("handler")
        return iter((b"answer",)) if many_out else b"answer"

    assert asked(kind, side.serve(kind, behavior)) == b"answer"
    method = f"/{side.service}/Served"
    assert seen == [("a", method), ("b", method), "a", "b", "handler"]


def raises(continuation: Any, details: Any) -> Any:
    raise ValueError("oops")


def redirects(continuation: Any, details: Any) -> Any:
    return continuation(details._replace(method="/conformance.v1.Echo/UnaryMetadata"))


@pytest.mark.parametrize(
    ("intercept", "seen"),
    [
        (lambda continuation, details: continuation(details), (b"request",)),
        (lambda continuation, details: answers("unary_unary", b"own"), (b"own",)),
        (lambda continuation, details: None, NOT_FOUND),
        (raises, LOOKUP_FAILED),
        (redirects, (b"request",)),
    ],
)
@pytest.mark.parametrize("method", ["UnaryEcho", "Unknown"])
def test_interceptors_choose(
    start: Callable[..., Side], intercept: Callable[..., Any], seen: tuple[Any, ...], method: str
) -> None:
    side = start(interceptors=[Interceptor(intercept)])
    known = method == "UnaryEcho" or seen[0] != b"request" or intercept is redirects
    assert unary(side.unary(method), b"request") == (seen if known else NOT_FOUND)


def test_interceptors_see_metadata_and_change_it(start: Callable[..., Side]) -> None:
    seen: list[Any] = []

    def intercept(continuation: Any, details: Any) -> Any:
        seen.extend(entry for entry in details.invocation_metadata if entry.key.startswith("x-"))
        return continuation(details._replace(invocation_metadata=(("x-other", "2"),)))

    def behind(continuation: Any, details: Any) -> Any:
        seen.extend(details.invocation_metadata)
        return continuation(details)

    side = start(interceptors=[Interceptor(intercept), Interceptor(behind)])
    unary(side.unary("UnaryEcho"), metadata=[("x-one", "1")])
    assert [tuple(entry) for entry in seen] == [("x-one", "1"), ("x-other", "2")]


@pytest.mark.parametrize("kind", KINDS)
def test_interceptors_and_handler_share_variables(start: Callable[..., Side], kind: str) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def intercept(continuation: Any, details: Any) -> Any:
        before = variable.get()
        variable.set("of the call")
        return continuation(details) if before == "unset" else None

    side = start(interceptors=[Interceptor(intercept)])

    def one(request: Any, context: Context) -> bytes:
        return variable.get().encode()

    def many(request: Any, context: Context) -> Iterator[bytes]:
        yield variable.get().encode()

    call = side.serve(kind, many if kind.endswith("stream") else one)
    for _ in range(3):
        assert asked(kind, call) == b"of the call"


def test_generic_handlers_share_variables_with_what_they_find(side: Side) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    class Setting(grpc.GenericRpcHandler):
        def service_name(self) -> str:
            return "vars.v1.Vars"

        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            before = variable.get()
            variable.set("by the lookup")
            return grpc.unary_unary_rpc_method_handler(lambda request, context: f"{before}, {variable.get()}".encode())

    side.server.add_generic_rpc_handlers((Setting(),))
    call = side.channel.unary_unary("/vars.v1.Vars/Get")
    assert {unary(call) for _ in range(3)} == {(b"unset, by the lookup",)}


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_calls_of_each_kind(start: Callable[..., Side], kind: str) -> None:
    side = start(maximum_concurrent_rpcs=2)
    entered, release = threading.Semaphore(0), threading.Event()

    def one(request: Any, context: Context) -> bytes:
        entered.release()
        assert release.wait(LONG)
        return b"done"

    def many(request: Any, context: Context) -> Iterator[bytes]:
        yield one(request, context)

    call = side.serve(kind, many if kind.endswith("stream") else one)

    def begin() -> Any:
        request = iter((b"",)) if kind.startswith("stream") else b""
        return call.future(request, timeout=LONG) if kind.endswith("unary") else call(request, timeout=LONG)

    running = [begin(), begin()]
    for _ in running:
        assert entered.acquire(timeout=LONG)
    assert asked(kind, call) == LIMIT
    assert unary(side.unary("UnaryEcho")) == LIMIT
    assert unary(side.unary("Unknown")) == NOT_FOUND
    # A call that its caller gave up counts until its handler has ended.
    running[0].cancel()
    assert unary(side.unary("UnaryEcho")) == LIMIT
    release.set()
    assert (running[1].result() if kind.endswith("unary") else next(running[1])) == b"done"
    outcome = unary(side.unary("UnaryEcho"), b"again")
    while outcome == LIMIT:  # until both handlers have ended
        outcome = unary(side.unary("UnaryEcho"), b"again")
    assert outcome == (b"again",)


def test_no_call_at_all(start: Callable[..., Side]) -> None:
    side = start(maximum_concurrent_rpcs=0)
    assert unary(side.unary("UnaryEcho")) == LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_message_lengths(start: Callable[..., Side], kind: str) -> None:
    options = [("grpc.max_receive_message_length", 1000), ("grpc.max_send_message_length", 2000)]
    side = start(options=options)

    def one(request: Any, context: Context) -> bytes:
        size = request if isinstance(request, bytes) else next(request)
        return bytes(int(size))

    def many(request: Any, context: Context) -> Iterator[bytes]:
        yield one(request, context)

    call = side.serve(kind, many if kind.endswith("stream") else one)

    def ask(request: bytes) -> Any:
        argument: Any = iter((request,)) if kind.startswith("stream") else request
        outcome = (stream if kind.endswith("stream") else unary)(call, argument)
        return outcome[0] if len(outcome) == 1 else outcome[0][0] if outcome[-2] is StatusCode.OK else outcome[-2:]

    assert ask(b"2000") == bytes(2000)
    assert ask(b"%1000d" % 2000) == bytes(2000)
    code, details = ask(b"2001")
    assert (code, "Sent message larger than max (2001 vs. 2000)" in details) == (StatusCode.RESOURCE_EXHAUSTED, True)
    if kind.startswith("unary") or side.name != "grpcio":  # see test_request_in_a_stream_that_cannot_be_had
        code, details = ask(b"%1001d" % 1)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert "Received message larger than max (1001 vs. 1000)" in details


def test_metadata_over_the_servers_limit(start: Callable[..., Side]) -> None:
    side = start(options=[("grpc.max_metadata_size", 1000), ("grpc.absolute_max_metadata_size", 1000)])
    outcome = unary(side.unary("UnaryEcho"), b"", metadata=[("x-large", "v" * 1200)])
    assert outcome[0] is StatusCode.RESOURCE_EXHAUSTED
    assert unary(side.unary("UnaryEcho"), b"lives", metadata=[("x-small", "v" * 100)]) == (b"lives",)


def test_executor_that_is_shut_down(start: Callable[..., Side], request: pytest.FixtureRequest) -> None:
    side = start()
    if side.name == "grpcio":
        pytest.skip("grpcio's server thread ends with an exception, and its callers hear nothing (seen with 1.85.1)")
    side.executor.shutdown()
    code, details = unary(side.unary("UnaryEcho"))
    assert code is StatusCode.UNAVAILABLE
    assert "shutdown" in details
