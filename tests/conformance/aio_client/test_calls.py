"""Calls of all four kinds on an event loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.aio_client.conftest import Client

Run = Callable[..., None]


async def numbers(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it becomes true in another thread
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20])
def test_unary(run: Run, size: int) -> None:
    async def main(client: Client) -> None:
        assert await client.unary("UnaryEcho")(bytes(size)) == bytes(size)

    run(main)


def test_all_kinds(run: Run) -> None:
    async def main(client: Client) -> None:
        assert [message async for message in client.down("DownCount")(b"100")] == [b"%d" % n for n in range(100)]
        assert await client.up("UpJoin")(numbers(100)) == b",".join(b"%d" % n for n in range(100))
        assert await client.up("UpJoin")(iter([b"a", b"b"])) == b"a,b"
        assert [message async for message in client.both("BothEcho")(numbers(100))] == [b"%d" % n for n in range(100)]

    run(main)


def test_read_and_write(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.both("BothEcho")()
        await call.wait_for_connection()
        for number in range(10):
            await call.write(b"%d" % number)
            assert await call.read() == b"%d" % number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert await call.read() is grpc.aio.EOF

        call = client.up("UpJoin")()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"a,b"
        assert await call == b"a,b"

        call = client.down("DownCount")(b"2")
        assert [await call.read(), await call.read(), await call.read()] == [b"0", b"1", grpc.aio.EOF]

    run(main)


def test_styles_do_not_mix(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.both("BothEcho")(numbers(2))
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            await call.write(b"x")
        assert await anext(aiter(call)) == b"0"
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            await call.read()

    run(main)


def test_writing_after_the_end(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.both("BothEcho")()
        await call.write(b"x")
        await call.done_writing()
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError, match="half closed"):
            await call.write(b"y")
        assert await call.read() == b"x"
        assert await call.read() is grpc.aio.EOF
        with pytest.raises(asyncio.InvalidStateError, match="already finished"):
            await call.write(b"y")
        await call.done_writing()

    run(main)


def test_metadata(run: Run) -> None:
    async def main(client: Client) -> None:
        sent = (("x-one", "1"), ("x-two-bin", b"\x00\xff"), ("x-one", "2"))
        for given in (sent, grpc.aio.Metadata(*sent)):
            call = client.unary("UnaryMetadata")(b"", metadata=given)
            initial = await call.initial_metadata()
            assert isinstance(initial, grpc.aio.Metadata)
            assert initial.get_all("x-initial") == ["one", "two"]
            assert initial["x-bytes-bin"] == b"\x00\xff"
            assert await call == b""
            trailing = await call.trailing_metadata()
            assert isinstance(trailing, grpc.aio.Metadata)
            assert trailing.get_all("x-one") == ["1", "2"]
            assert trailing["x-two-bin"] == b"\x00\xff"

    run(main)


def test_initial_metadata_comes_before_messages(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.both("BothHello")()
        assert (await call.initial_metadata())["x-hello"] == "yes"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    run(main)


@pytest.mark.parametrize(
    ("method", "request_", "code", "details"),
    [
        ("UnaryAbort", b"why", grpc.StatusCode.FAILED_PRECONDITION, "why"),
        ("UnaryRaise", b"boom", grpc.StatusCode.UNKNOWN, "Exception calling application: boom"),
        ("UnaryCode", b"gone", grpc.StatusCode.NOT_FOUND, "gone"),
        ("UnaryNothing", b"", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    ],
)
def test_errors(run: Run, method: str, request_: bytes, code: grpc.StatusCode, details: str) -> None:
    async def main(client: Client) -> None:
        call = client.unary(method)(request_)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        assert isinstance(error, grpc.RpcError)
        assert (error.code(), error.details()) == (code, details)
        assert isinstance(error.initial_metadata(), grpc.aio.Metadata)
        assert isinstance(error.trailing_metadata(), grpc.aio.Metadata)
        if method == "UnaryAbort":
            assert error.trailing_metadata()["x-why"] == "test"
        assert details in str(error)
        assert details in error.debug_error_string()
        assert (await call.code(), await call.details()) == (code, details)
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()

    run(main)


def test_an_error_after_messages(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.down("DownAbort")(b"why")
        got = []

        async def collect() -> None:
            async for message in call:
                got.append(message)  # noqa: PERF401 - a comprehension would lose it to the error

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect()
        assert got == [b"first"]
        assert caught.value.code() is grpc.StatusCode.ABORTED

        call = client.down("DownAbort")(b"why")
        assert await call.read() == b"first"
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()

    run(main)


def test_deadline(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.unary("UnaryWait")(b"", timeout=1)
        assert 0 < call.time_remaining() <= 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "Deadline Exceeded"
        assert not call.cancelled()
        await until(client.echo.cancelled.is_set)
        assert client.unary("UnaryEcho")(b"").time_remaining() is None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary("UnaryEcho")(b"", timeout=-1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in client.down("DownForever")(b"1", timeout=0.2):
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(main)


def test_cancel(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.unary("UnaryWait")(b"")
        await asyncio.to_thread(client.echo.entered.acquire)
        assert not call.done()
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.done()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        await until(client.echo.cancelled.is_set)

    run(main)


def test_cancelling_the_task_cancels_the_call(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.unary("UnaryWait")(b"")

        async def wait() -> None:
            await call

        task = asyncio.get_running_loop().create_task(wait())
        await asyncio.to_thread(client.echo.entered.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(client.echo.cancelled.is_set)
        assert call.cancelled()

    run(main)


def test_cancelling_a_stream(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.down("DownForever")(b"10")
        assert await call.read() == bytes(10)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await until(client.echo.cancelled.is_set)

    run(main)


def test_a_call_that_nobody_awaits_is_made(run: Run) -> None:
    async def main(client: Client) -> None:
        client.unary("UnaryWait")(b"")
        gc.collect()
        await asyncio.to_thread(client.echo.entered.acquire)
        client.echo.release.set()

    run(main)


def test_done_callbacks(run: Run) -> None:
    async def main(client: Client) -> None:
        seen: list[Any] = []
        call = client.unary("UnaryEcho")(b"x")
        call.add_done_callback(seen.append)
        assert await call == b"x"
        await until(lambda: bool(seen))
        assert seen == [call]
        call.add_done_callback(seen.append)
        await until(lambda: len(seen) == 2)

    run(main)


def test_a_request_iterator_that_raises(run: Run) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("boom")

    async def main(client: Client) -> None:
        call = client.up("UpBroken")(broken())
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        await until(client.echo.cancelled.is_set)
        assert client.echo.events[-1] != "ended"

    run(main)


def test_an_early_answer_ends_the_requests(run: Run) -> None:
    ended = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            ended.append(True)

    async def main(client: Client) -> None:
        assert await client.up("UpEarly")(endless()) == b"x"
        await until(lambda: bool(ended))

    run(main)


def test_an_unread_stream_bounds_its_producer(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.down("DownForever")(b"65536")
        await call.read()
        sent = -1
        while sent != len(client.echo.events):
            sent = len(client.echo.events)
            await asyncio.sleep(0.2)
        assert sent < 200
        call.cancel()

    run(main)


def test_unread_requests_bound_the_caller(run: Run) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(65536)

    async def main(client: Client) -> None:
        call = client.up("UpNever")(endless())
        before = -1
        while before != given:
            before = given
            await asyncio.sleep(0.2)
        assert given < 200
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main)


def test_serializers(run: Run) -> None:
    def nonsense(_: Any) -> Any:
        raise ValueError("no")

    async def main(client: Client) -> None:
        name = "/conformance.v1.Echo/UnaryEcho"
        plus = client.channel.unary_unary(name, lambda value: value.encode(), lambda data: data.decode() + "!")
        assert await plus("a") == "a!"
        # A response that does not parse is logged, and is None.
        assert await client.channel.unary_unary(name, None, nonsense)(b"x") is None

    run(main)


def test_messages_over_the_limits(run: Run) -> None:
    async def main(client: Client) -> None:
        for size in (1001, 2000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary("UnaryEcho")(bytes(size))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.unary("UnaryEcho")(bytes(900)) == bytes(900)

    run(main, options=[("grpc.max_send_message_length", 1500), ("grpc.max_receive_message_length", 1000)])


def test_many_at_once(run: Run) -> None:
    async def main(client: Client) -> None:
        echo = client.unary("UnaryEcho")
        answers = await asyncio.gather(*[echo(b"%d" % number) for number in range(500)])
        assert answers == [b"%d" % number for number in range(500)]

    run(main)


def test_wait_for_connection(run: Run) -> None:
    async def main(client: Client) -> None:
        call = client.up("UpJoin")()
        await call.wait_for_connection()
        await call.done_writing()
        assert await call == b""
        call = client.unary("UnaryEcho")(b"x")
        await call.wait_for_connection()
        assert call.done()

    run(main)


def test_credentials_need_a_secure_channel(run: Run) -> None:
    async def main(client: Client) -> None:
        with pytest.raises(grpc.aio.UsageError, match="only valid on secure channels"):
            client.unary("UnaryEcho")(b"", credentials=grpc.access_token_call_credentials("x"))

    run(main)


def test_types(run: Run) -> None:
    async def main(client: Client) -> None:
        assert isinstance(client.channel, grpc.aio.Channel)
        multicallables: Iterator[tuple[Any, type]] = iter(
            [
                (client.unary("UnaryEcho"), grpc.aio.UnaryUnaryMultiCallable),
                (client.down("DownCount"), grpc.aio.UnaryStreamMultiCallable),
                (client.up("UpJoin"), grpc.aio.StreamUnaryMultiCallable),
                (client.both("BothEcho"), grpc.aio.StreamStreamMultiCallable),
            ]
        )
        for multicallable, kind in multicallables:
            assert isinstance(multicallable, kind)
        call = client.unary("UnaryEcho")(b"")
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        await call
        stream = client.down("DownCount")(b"1")
        assert isinstance(stream, grpc.aio.UnaryStreamCall)
        assert [message async for message in stream] == [b"0"]

    run(main)
