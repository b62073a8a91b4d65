"""A channel on an event loop: its state, its end, its interceptors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from conformance.aio_client.conftest import Client

Run = Callable[..., None]


def test_a_closed_channel(run: Run) -> None:
    async def main(client: Client) -> None:
        waiting = client.unary("UnaryWait")(b"")
        await asyncio.to_thread(client.echo.entered.acquire)
        await client.channel.close()
        await client.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await waiting.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
            client.unary("UnaryEcho")(b"")
        assert client.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN

    run(main)


def test_closing_with_grace(run: Run) -> None:
    async def main(client: Client) -> None:
        waiting = client.unary("UnaryWait")(b"x")
        await asyncio.to_thread(client.echo.entered.acquire)
        closing = asyncio.get_running_loop().create_task(client.channel.close(20))
        await asyncio.sleep(0.05)
        assert not closing.done()
        client.echo.release.set()
        assert await waiting == b"x"
        await closing

    run(main)


class _Recorder(
    grpc.aio.UnaryUnaryClientInterceptor,
):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(self.name)
        details.metadata.add("x-by", self.name)
        call = await continuation(details, request)
        self.seen.append(f"{self.name} sent")
        return call


def test_interceptors_of_unary_calls(run: Run) -> None:
    seen: list[str] = []

    async def main(client: Client) -> None:
        call = client.unary("UnaryMetadata")(b"x")
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert await call == b"x"
        assert seen == ["one", "two", "two sent", "one sent"]
        assert (await call.trailing_metadata()).get_all("x-by") == ["one", "two"]
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        failing = client.unary("UnaryAbort")(b"why")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await failing
        assert caught.value.details() == "why"
        assert await failing.code() is grpc.StatusCode.FAILED_PRECONDITION

    run(main, interceptors=[_Recorder("one", seen), _Recorder("two", seen)])


def test_an_interceptor_that_answers_itself(run: Run) -> None:
    class Answer(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return b"mine"

    async def main(client: Client) -> None:
        call = client.unary("UnaryEcho")(b"x")
        assert await call == b"mine"
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()

    run(main, interceptors=[Answer()])


def test_an_interceptor_that_tries_again(run: Run) -> None:
    class Retry(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            if await call.code() is not grpc.StatusCode.OK:
                details = details._replace(method=b"/conformance.v1.Echo/UnaryEcho")
                call = await continuation(details, request)
            return call

    async def main(client: Client) -> None:
        assert await client.unary("UnaryAbort")(b"x") == b"x"

    run(main, interceptors=[Retry()])


def test_an_interceptor_that_raises(run: Run) -> None:
    class Refuse(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            raise ValueError("no")

    async def main(client: Client) -> None:
        with pytest.raises(ValueError, match="no"):
            await client.unary("UnaryEcho")(b"x")

    run(main, interceptors=[Refuse()])


def test_interceptors_of_streams(run: Run) -> None:
    class Down(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)

            async def twice() -> AsyncIterator[bytes]:
                async for message in call:
                    yield message + message

            return twice()

    class Up(grpc.aio.StreamUnaryClientInterceptor):
        async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
            async def louder() -> AsyncIterator[bytes]:
                async for request in requests:
                    yield request.upper()

            return await continuation(details, louder())

    class Both(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return await continuation(details, requests)

    async def letters() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async def main(client: Client) -> None:
        assert [message async for message in client.down("DownCount")(b"3")] == [b"00", b"11", b"22"]
        assert await client.up("UpJoin")(letters()) == b"A,B"
        call = client.up("UpJoin")()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"A,B"
        assert [message async for message in client.both("BothEcho")(letters())] == [b"a", b"b"]
        stream = client.both("BothEcho")()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK

    run(main, interceptors=[Down(), Up(), Both()])


def test_cancelling_an_intercepted_call(run: Run) -> None:
    class Pass(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details, request)

    async def main(client: Client) -> None:
        call = client.unary("UnaryWait")(b"")
        await asyncio.to_thread(client.echo.entered.acquire)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.to_thread(client.echo.cancelled.wait)

    run(main, interceptors=[Pass()])


def test_what_is_no_interceptor(run: Run) -> None:
    async def main(client: Client) -> None:
        raise AssertionError("there is no such channel")

    with pytest.raises(ValueError, match="must be"):
        run(main, interceptors=[object()])
