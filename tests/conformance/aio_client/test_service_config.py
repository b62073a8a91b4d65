"""What a `grpc.aio.Channel` does of its service config: asserted of grpcio, and of ours over each wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.aio_client.conftest import Client
from conformance.configs import INVALID, UNAVAILABLE, Failing, options, retrying
from conformance.outcomes import BEGUN, LONG, OLD_GRPCIO

Run = Callable[..., None]
PATH = "/conformance.v1.Echo/Configured"
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]

every_kind = pytest.mark.parametrize("kind", KINDS)


def served(client: Client, kind: str, behavior: Callable[[Any, grpc.ServicerContext], bytes]) -> Any:
    """A method of that kind that answers once: a single request, or the iterator of all."""

    def several(argument: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield behavior(argument, context)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    client.echo.handlers[PATH] = make(several if kind.endswith("stream") else behavior)
    return getattr(client.channel, kind)(PATH)


def begun(method: Any, kind: str, *requests: bytes, **arguments: Any) -> Any:
    given = list(requests) if kind.startswith("stream") else requests[0]
    return method(given, **({"timeout": LONG} | arguments))


async def answer(call: Any) -> bytes:
    """The one there is."""
    if isinstance(call, (grpc.aio.UnaryUnaryCall, grpc.aio.StreamUnaryCall)):
        message: bytes = await call
    else:
        (message,) = [message async for message in call]
    return message


async def failure(call: Any) -> tuple[Any, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answer(call)
    assert await call.code() is raised.value.code()
    return raised.value.code(), raised.value.details()


def first(behavior: Callable[[bytes, grpc.ServicerContext], bytes]) -> Callable[[Any, grpc.ServicerContext], bytes]:
    """Of the request, or of the first of several."""

    def of_either(argument: Any, context: grpc.ServicerContext) -> bytes:
        return behavior(argument if isinstance(argument, bytes) else next(argument), context)

    return of_either


@every_kind
def test_a_call_is_tried_until_it_ends_well(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        handler = Failing(2)
        call = begun(served(client, kind, first(handler)), kind, b"question")
        assert await answer(call) == b"question"
        assert await call.code() is grpc.StatusCode.OK
        assert handler.attempts == [None, "1", "2"]

    run(main, options=retrying())


@every_kind
def test_a_call_ends_as_its_last_attempt(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        handler = Failing(99, "1")
        call = begun(served(client, kind, first(handler)), kind, b"")
        assert await failure(call) == (UNAVAILABLE, "failure 3")
        assert (await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1"
        assert handler.attempts == [None, "1", "2"]

    run(main, options=retrying(maxAttempts=3))


@pytest.mark.parametrize(
    "channel_options",
    [
        options(),
        options(hedgingPolicy={"maxAttempts": 3, "hedgingDelay": "0s"}),
        retrying(("grpc.enable_retries", 0)),
        retrying(("grpc.per_rpc_retry_buffer_size", 0)),
        retrying(retryableStatusCodes=["INTERNAL"]),
    ],
    ids=["no policy", "hedging", "off", "no buffer", "other codes"],
)
@every_kind
def test_one_attempt_only(run: Run, kind: str, channel_options: Any) -> None:
    async def main(client: Client) -> None:
        handler = Failing(99)
        assert await failure(begun(served(client, kind, first(handler)), kind, b"x")) == (UNAVAILABLE, "failure 1")
        assert handler.attempts == [None]

    run(main, options=channel_options)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_call_is_committed_by_initial_metadata(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        if client.name == "grpc.aio":
            pytest.skip("grpc.aio tries it again now and then (seen with 1.72.1 and 1.85.1)")
        handler = Failing(99)

        def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.send_initial_metadata([("k", "v")])
            return handler(request, context)

        call = begun(served(client, kind, behavior), kind, b"")
        assert (await call.initial_metadata())["k"] == "v"
        assert await failure(call) == (UNAVAILABLE, "failure 1")

    run(main, options=retrying())


def test_initial_metadata_is_that_of_the_last_attempt(run: Run) -> None:
    async def main(client: Client) -> None:
        handler = Failing(2)

        def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
            response = handler(request, context)
            context.send_initial_metadata([("k", "v")])
            return response

        call = begun(served(client, "unary_unary", behavior), "unary_unary", b"")
        assert (await call.initial_metadata())["k"] == "v"
        assert len(handler.attempts) == 3

    run(main, options=retrying())


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("how", ["iterator", "written"])
@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_all_requests_come_again(run: Run, kind: str, how: str, early: bool) -> None:
    """`early`: the first attempt ends while they are still sent."""
    parts = [b"%d" % number for number in range(50)]

    async def main(client: Client) -> None:
        if early and client.name == "grpc.aio":
            pytest.skip("grpc.aio 1.85.1 loses a request now and then")
        seen: list[list[bytes]] = []

        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            got = [next(requests)] if early and not seen else list(requests)
            seen.append(got)
            if len(seen) < 3:
                context.abort(UNAVAILABLE, "again")
            return b",".join(got)

        method = served(client, kind, behavior)
        if how == "iterator":
            call = method(iter(parts), timeout=LONG)
        else:
            call = method(timeout=LONG)
            for part in parts:
                await call.write(part)
            await call.done_writing()
        assert await answer(call) == b",".join(parts)
        assert seen == [[b"0"] if early else parts, parts, parts]

    run(main, options=retrying())


@pytest.mark.parametrize(("size", "attempts"), [(500, 2), (1100, 1)])
@every_kind
def test_a_call_that_the_buffer_does_not_hold(run: Run, kind: str, size: int, attempts: int) -> None:
    async def main(client: Client) -> None:
        handler = Failing(99)
        await failure(begun(served(client, kind, first(handler)), kind, bytes(size)))
        assert len(handler.attempts) == attempts

    run(main, options=retrying(("grpc.per_rpc_retry_buffer_size", 1000), maxAttempts=2))


@every_kind
def test_a_deadline_covers_all_attempts(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        if client.name == "grpc.aio" and kind.startswith("stream"):
            pytest.skip("grpc.aio 1.85.1 says now and then that it was cancelled")
        handler = Failing(99)
        call = begun(served(client, kind, first(handler)), kind, b"", timeout=BEGUN)
        assert await failure(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        assert handler.attempts == [None]

    run(main, options=retrying(initialBackoff="60s", maxBackoff="60s"))


@pytest.mark.parametrize("how", ["cancel", "close"])
@every_kind
def test_a_call_that_ends_between_two_attempts(run: Run, kind: str, how: str) -> None:
    async def main(client: Client) -> None:
        failed = threading.Event()

        def behavior(request: Any, context: grpc.ServicerContext) -> bytes:
            context.add_callback(failed.set)
            context.abort(UNAVAILABLE, "")
            return b""

        call = begun(served(client, kind, behavior), kind, b"")
        assert await asyncio.to_thread(failed.wait, LONG)
        assert not call.done()
        if how == "cancel":
            assert call.cancel()
        else:
            await client.channel.close()
        assert await call.code() is grpc.StatusCode.CANCELLED

    run(main, options=retrying(initialBackoff="60s", maxBackoff="60s"))


def test_failures_take_tokens(run: Run) -> None:
    async def main(client: Client) -> None:
        handler = Failing(99)
        method = served(client, "unary_unary", handler)
        assert [(await failure(method(b"", timeout=LONG)))[1] for _ in range(2)] == ["failure 2", "failure 3"]
        assert handler.attempts == [None, "1", None]

    run(main, options=retrying(throttling={"maxTokens": 4, "tokenRatio": 0.5}))


class Renames(grpc.aio.UnaryUnaryClientInterceptor):
    """Calls another method."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(method=PATH.encode()), request)


def test_what_is_said_of_the_method_that_is_called_in_the_end(run: Run) -> None:
    async def main(client: Client) -> None:
        handler = Failing(2)
        served(client, "unary_unary", handler)
        other = client.channel.unary_unary("/conformance.v1.Echo/Other")
        assert await other(b"x", timeout=LONG) == b"x"

    text = retrying()[0][1].replace("[{}]", '[{"service": "conformance.v1.Echo", "method": "Configured"}]')
    run(main, options=[("grpc.service_config", text)], interceptors=[Renames()])


@every_kind
def test_a_time_out(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        def behavior(request: Any, context: grpc.ServicerContext) -> bytes:
            client.echo.release.wait(LONG)
            return b""

        method = served(client, kind, behavior)
        for timeout in (None, LONG):
            code, _ = await failure(begun(method, kind, b"", timeout=timeout))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED

    run(main, options=options(timeout="0.3s"))


@every_kind
def test_limits_of_messages(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        sizes = {b"fits": 20, b"too large": 21}
        method = served(client, kind, first(lambda request, context: bytes(sizes.get(request, 0))))
        assert await answer(begun(method, kind, b"fits")) == bytes(20)
        code, details = await failure(begun(method, kind, b"too large"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Received message larger than max (21 vs. 20)" in details
        if kind == "stream_stream" and client.name == "grpc.aio":
            return  # INTERNAL, with grpc.aio 1.85.1
        code, details = await failure(begun(method, kind, bytes(11)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Sent message larger than max (11 vs. 10)" in details

    run(main, options=options(maxRequestMessageBytes=10, maxResponseMessageBytes=20))


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_whether_to_wait_for_a_server(run: Run, kind: str) -> None:
    async def main(client: Client) -> None:
        await asyncio.to_thread(client.server.stop(None).wait, LONG)
        method = getattr(client.channel, kind)(PATH)
        assert (await failure(begun(method, kind, b"", timeout=0.3)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await failure(begun(method, kind, b"", wait_for_ready=False)))[0] is UNAVAILABLE

    run(main, options=options(waitForReady=True))


@pytest.mark.parametrize("config", list(INVALID)[::5])
@every_kind
def test_no_call_is_made_with_a_config_that_is_not_valid(run: Run, kind: str, config: str) -> None:
    async def main(client: Client) -> None:
        code, details = await failure(begun(served(client, kind, first(lambda request, _: request)), kind, b""))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        if not (OLD_GRPCIO and client.name == "grpc.aio"):
            assert details.startswith("Failed to create channel to '")
            assert details.endswith(f"':errors validating service config: {INVALID[config]}")

    run(main, options=[("grpc.service_config", config)])
