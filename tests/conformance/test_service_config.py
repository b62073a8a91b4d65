"""What a channel does of its service config: asserted of grpcio, and of ours over each wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.configs import INVALID, UNAVAILABLE, Failing, options, policy, retrying
from conformance.conftest import Side
from conformance.outcomes import BEGUN, LONG, OLD_GRPCIO, unary
from conformance.ways import PATH, Way, every_running_way, every_way, every_way_of_a_stream

Start = Callable[..., Side]


def failing(
    start: Start, channel_options: Any, times: int = 99, *pushbacks: str, **arguments: Any
) -> tuple[Any, Failing]:
    """A unary method that fails so often, and what its handler has seen."""
    side = start(channel_options=channel_options)
    handler = Failing(times, *pushbacks, **arguments)
    return side.serve("unary_unary", handler), handler


@every_way
def test_a_call_is_tried_until_it_ends_well(start: Start, way: Way) -> None:
    side = start(channel_options=retrying())
    handler = Failing(2)
    way.served(side, handler)
    assert way.run(way.multicallable(side.channel), b"question") == b"question"
    assert handler.attempts == [None, "1", "2"]
    assert handler.requests == [b"question"] * 3


@every_way
def test_a_call_ends_as_its_last_attempt(start: Start, way: Way) -> None:
    side = start(channel_options=retrying(maxAttempts=3))
    handler = Failing(99)
    way.served(side, handler)
    error = way.failure(way.multicallable(side.channel))
    assert (error.code(), error.details()) == (UNAVAILABLE, "failure 3")
    assert handler.attempts == [None, "1", "2"]


def test_the_first_call_of_a_channel_and_those_after_it(start: Start) -> None:
    call, handler = failing(start, retrying(), times=1)
    for request in (b"1", b"2", b"3"):
        assert unary(call, request) == (request,)
    assert handler.attempts == [None, "1", None, None]


@pytest.mark.parametrize("given", [9, "9"])
def test_five_attempts_at_most(start: Start, given: Any) -> None:
    call, handler = failing(start, retrying(maxAttempts=given))
    assert unary(call) == (UNAVAILABLE, "failure 5")
    assert handler.attempts == [None, "1", "2", "3", "4"]


@pytest.mark.parametrize(
    "channel_options",
    [
        None,
        options(),
        options(retryPolicy=None),
        options(hedgingPolicy={"maxAttempts": 3, "hedgingDelay": "0s"}),
        retrying(("grpc.enable_retries", 0)),
        retrying(("grpc.per_rpc_retry_buffer_size", 0)),
        retrying(retryableStatusCodes=["INTERNAL", "ABORTED"]),
        retrying(retryableStatusCodes=["OK"]),
    ],
    ids=["no config", "no policy", "null", "hedging", "off", "no buffer", "other codes", "OK"],
)
def test_one_attempt_only(start: Start, channel_options: Any) -> None:
    call, handler = failing(start, channel_options)
    assert unary(call) == (UNAVAILABLE, "failure 1")
    assert handler.attempts == [None]


@pytest.mark.parametrize("code", ["CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNKNOWN"])
def test_any_code_that_is_listed(start: Start, code: str) -> None:
    call, handler = failing(start, retrying(retryableStatusCodes=[code]), times=2, code=grpc.StatusCode[code])
    assert unary(call, b"x") == (b"x",)
    assert len(handler.attempts) == 3


def test_a_call_is_committed_by_initial_metadata(start: Start) -> None:
    side = start(channel_options=retrying())
    attempts = []

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        attempts.append(1)
        context.send_initial_metadata([("k", "v")])
        context.abort(UNAVAILABLE, "after the metadata")
        return b""

    assert unary(side.serve("unary_unary", behavior)) == (UNAVAILABLE, "after the metadata")
    assert attempts == [1]


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_call_is_committed_by_a_response(start: Start, kind: str) -> None:
    side = start(channel_options=retrying())
    attempts = []

    def behavior(argument: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        attempts.append(1)
        yield b"first"
        context.abort(UNAVAILABLE, "after a response")

    call = side.serve(kind, behavior)(iter([b""]) if kind == "stream_stream" else b"", timeout=LONG)
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details(), attempts) == (UNAVAILABLE, "after a response", [1])


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@every_way_of_a_stream
def test_all_requests_come_again(start: Start, way: Way, early: bool) -> None:
    """`early`: the first attempt ends while they are still sent."""
    side = start(channel_options=retrying())
    if early and side.name == "grpcio":
        pytest.skip("grpcio 1.85.1 loses a request now and then")
    seen: list[list[bytes]] = []

    def join(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        got = [next(requests)] if early and not seen else list(requests)
        seen.append(got)
        if len(seen) < 3:
            context.abort(UNAVAILABLE, "again")
        return b",".join(got)

    def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield join(requests, context)

    parts = [b"%d" % number for number in range(50)]
    side.serve(way.kind, stream if way.gets_stream else join, PATH)
    multicallable = way.multicallable(side.channel)
    begun = (multicallable if way.how == "call" else getattr(multicallable, way.how))(iter(parts), timeout=LONG)
    if way.gets_stream:
        (answer,) = begun
    else:
        answer = begun.result() if way.how == "future" else begun[0] if way.how == "with_call" else begun
    assert answer == b",".join(parts)
    assert seen == [[b"0"] if early else parts, parts, parts]


def test_requests_that_come_between_two_attempts(start: Start) -> None:
    side = start(channel_options=retrying(initialBackoff="0.3s", maxBackoff="0.3s"))
    failed = threading.Event()

    def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        if not failed.is_set():
            context.add_callback(failed.set)
            context.abort(UNAVAILABLE, "again")
        return b",".join(requests)

    def requests() -> Iterator[bytes]:
        yield b"1"
        assert failed.wait(LONG)
        yield b"2"
        yield b"3"

    call = side.serve("stream_unary", behavior)
    assert call(requests(), timeout=LONG) == b"1,2,3"


@pytest.mark.parametrize(("size", "attempts"), [(500, 2), (1100, 1)])
@every_way
def test_a_call_that_the_buffer_does_not_hold(start: Start, way: Way, size: int, attempts: int) -> None:
    side = start(channel_options=retrying(("grpc.per_rpc_retry_buffer_size", 1000), maxAttempts=2))
    handler = Failing(99)
    way.served(side, handler)
    error = way.failure(way.multicallable(side.channel), bytes(size))
    assert (error.code(), len(handler.attempts)) == (UNAVAILABLE, attempts)


@pytest.mark.parametrize(("size", "attempts"), [(200 << 10, 4), (257 << 10, 1)])
def test_the_buffer_if_nothing_is_said(start: Start, size: int, attempts: int) -> None:
    call, handler = failing(start, retrying())
    assert unary(call, bytes(size)) == (UNAVAILABLE, f"failure {attempts}")
    assert len(handler.attempts) == attempts


def test_a_program_cannot_say_how_many_attempts_there_were(start: Start) -> None:
    call, handler = failing(start, retrying(maxAttempts=2))
    unary(call, metadata=[("grpc-previous-rpc-attempts", "7")])
    assert handler.attempts == [None, "1"]


# -- when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["-1", "soon", "1.5", "99999999999999999999"])
def test_a_server_that_wants_no_further_attempt(start: Start, said: str) -> None:
    call, handler = failing(start, retrying(), 99, said)
    assert unary(call) == (UNAVAILABLE, "failure 1")
    assert handler.attempts == [None]


@pytest.mark.parametrize("pushbacks", [["5"], ["60000", "5"], [" 5"]], ids=",".join)
def test_a_server_that_says_when(start: Start, pushbacks: list[str]) -> None:
    """Else it would be in a minute."""
    call, handler = failing(start, retrying(initialBackoff="60s", maxBackoff="60s"), 3, *pushbacks)
    assert unary(call, b"x") == (b"x",)
    assert len(handler.attempts) == 4


@every_way
def test_a_deadline_covers_all_attempts(start: Start, way: Way) -> None:
    side = start(channel_options=retrying(initialBackoff="60s", maxBackoff="60s"))
    handler = Failing(99)
    way.served(side, handler)
    error = way.failure(way.multicallable(side.channel), timeout=BEGUN)
    assert (error.code(), error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert handler.attempts == [None]


@every_running_way
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_call_that_ends_between_two_attempts(start: Start, way: Way, how: str) -> None:
    side = start(channel_options=retrying(initialBackoff="60s", maxBackoff="60s"))
    failed = threading.Event()

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(failed.set)
        context.abort(UNAVAILABLE, "")
        return b""

    way.served(side, behavior)
    call = way.begin(way.multicallable(side.channel), timeout=LONG)
    ended = threading.Event()
    call.add_callback(ended.set)
    assert failed.wait(LONG)
    assert not call.done()
    if how == "cancel":
        assert call.cancel()
    else:
        side.channel.close()
    assert ended.wait(LONG)
    assert call.code() is grpc.StatusCode.CANCELLED


def test_futures_are_tried_again_while_nobody_waits_for_them(start: Start) -> None:
    side = start(channel_options=retrying())
    answered = threading.Event()
    handler = Failing(2)

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        answer = handler(request, context)
        answered.set()
        return answer

    future = side.serve("unary_unary", behavior).future(b"x", timeout=LONG)
    assert answered.wait(LONG)
    assert future.result() == b"x"


# -- throttling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [str, float])
def test_failures_take_tokens(start: Start, written: Callable[[Any], Any]) -> None:
    throttling = {"maxTokens": 4 if written is float else "4", "tokenRatio": written(0.5)}
    call, handler = failing(start, retrying(throttling=throttling))
    assert [unary(call)[1] for _ in range(3)] == ["failure 2", "failure 3", "failure 4"]
    assert handler.attempts == [None, "1", None, None]


def test_successes_give_tokens_back(start: Start) -> None:
    side = start(channel_options=retrying(throttling={"maxTokens": 4, "tokenRatio": 1}))
    if side.name == "grpcio":
        pytest.skip("grpcio 1.85.1 gives none back")
    handler = Failing(3)
    call = side.serve("unary_unary", handler)
    unary(call)  # two failures, of four tokens
    unary(call)  # a third one
    for _ in range(3):
        assert unary(call, b"x") == (b"x",)
    handler.times = 99
    del handler.attempts[:]
    unary(call)
    assert handler.attempts == [None, "1"]


# -- which methods ---------------------------------------------------------------------------------


def test_the_most_exact_name_holds(start: Start) -> None:
    service = "conformance.v1.Echo"
    names = {2: {}, 3: {"service": service}, 4: {"service": service, "method": "Exact"}}
    entries = [{"name": [name], "retryPolicy": policy(maxAttempts=most)} for most, name in names.items()]
    entries.append({"retryPolicy": policy(maxAttempts=5)})  # of no method
    side = start(channel_options=[("grpc.service_config", json.dumps({"methodConfig": entries, "more": 1}))])
    made = {}
    for method in ("other.Service/Exact", f"{service}/Other", f"{service}/Exact"):
        handler = Failing(99)
        unary(side.serve("unary_unary", handler, f"/{method}"))
        made[method] = len(handler.attempts)
    # Ours finds a server by its service, and nobody serves the other one.
    del made["other.Service/Exact"]
    assert made == {f"{service}/Other": 3, f"{service}/Exact": 4}


def test_what_is_said_of_all_methods_and_what_of_one(start: Start) -> None:
    config = {
        "methodConfig": [
            {"name": [{}], "retryPolicy": policy(maxAttempts=2)},
            {"name": [{"service": "conformance.v1.Echo", "method": "Never"}]},
        ]
    }
    side = start(channel_options=[("grpc.service_config", json.dumps(config))])
    made = {}
    for method in ("Never", "Other"):
        handler = Failing(99)
        unary(side.serve("unary_unary", handler, f"/conformance.v1.Echo/{method}"))
        made[method] = len(handler.attempts)
    assert made == {"Never": 1, "Other": 2}


# -- time-outs, readiness, limits ------------------------------------------------------------------


@every_way
def test_a_time_out(start: Start, way: Way) -> None:
    side = start(channel_options=options(timeout="0.3s"))

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        side.echo.release.wait(LONG)
        return b""

    way.served(side, behavior)
    for timeout in (None, LONG):
        error = way.failure(way.multicallable(side.channel), timeout=timeout)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("said", ["60s", "0s", "0.0001s", None])
def test_the_earlier_of_two_time_outs(start: Start, said: str | None) -> None:
    side = start(channel_options=options(timeout=said))
    assert unary(side.unary("UnaryEcho"), b"x") == (b"x",)
    with pytest.raises(grpc.RpcError) as raised:
        side.unary("UnaryWait")(b"", timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@every_way
def test_limits_of_messages(start: Start, way: Way) -> None:
    side = start(channel_options=options(maxRequestMessageBytes=10, maxResponseMessageBytes="20"))
    sizes = {b"fits": 20, b"too large": 21}
    way.served(side, lambda request, context: bytes(sizes.get(request, 0)))
    multicallable = way.multicallable(side.channel)
    assert way.run(multicallable, b"fits") == bytes(20)
    received = way.failure(multicallable, b"too large")
    assert received.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Received message larger than max (21 vs. 20)" in received.details()
    sent = way.failure(multicallable, bytes(11))
    assert sent.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Sent message larger than max (11 vs. 10)" in sent.details()


def test_the_lower_of_two_limits(start: Start) -> None:
    limits = [("grpc.max_receive_message_length", 20), ("grpc.max_send_message_length", 10)]
    side = start(channel_options=options(*limits, maxRequestMessageBytes=100, maxResponseMessageBytes=100))
    call = side.serve("unary_unary", lambda request, context: bytes(21))
    assert "(21 vs. 20)" in unary(call, b"")[1]
    assert "(11 vs. 10)" in unary(call, bytes(11))[1]


@every_way
def test_whether_to_wait_for_a_server(start: Start, way: Way) -> None:
    side = start(channel_options=options(waitForReady=True))
    side.server.stop(None).wait(LONG)
    multicallable = way.multicallable(side.channel)
    waited = way.failure(multicallable, timeout=0.3)
    assert waited.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert way.failure(multicallable, timeout=LONG, wait_for_ready=False).code() is UNAVAILABLE


# -- what is not valid -----------------------------------------------------------------------------


@pytest.mark.parametrize("config", INVALID)
def test_no_call_is_made_with_a_config_that_is_not_valid(start: Start, config: str) -> None:
    side = start(channel_options=[("grpc.service_config", config)])
    code, details = unary(side.unary("UnaryEcho"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    if not (OLD_GRPCIO and side.name == "grpcio"):
        assert details.startswith("Failed to create channel to '")
        assert details.endswith(f"':errors validating service config: {INVALID[config]}")


@pytest.mark.parametrize("config", ["", "{", "{'a': 1}", "NaN", "{} {}"])
@every_way
def test_no_call_is_made_with_what_is_no_json(start: Start, way: Way, config: str) -> None:
    side = start(channel_options=[("grpc.service_config", config)])
    way.served(side, lambda request, context: request)
    error = way.failure(way.multicallable(side.channel), wait_for_ready=True)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    if not (OLD_GRPCIO and side.name == "grpcio"):
        assert "':JSON parsing failed: [" in error.details()
