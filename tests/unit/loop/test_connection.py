"""The asyncio driver, end to end over real sockets within one loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import Exhausted, IpcdError, ProtocolError, UsageError, WireClosed, WireTimeout
from ipcd_client.frame import codec
from ipcd_client.frame.settings import GOAWAY_DENIED, GOAWAY_EXHAUSTED, GOAWAY_TIMEOUT, GOAWAY_VIOLATION, Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.life import TooFarBehind
from ipcd_client.loop.reading import Denied, Dismissed
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import memory
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.unix import UnixWire

LONG = 10.0  # seconds: far more than anything here takes
SETTINGS = Settings(initial_window=4096, accept_fds=True)


class Echo:
    """What is called, and what has become of it."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.done = asyncio.Event()
        self.seen: list[Any] = []

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.seen.append((context.invocation_metadata(), context.peer_identity))
        return request

    async def forever(self, request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: self.done.set())
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.seen.append((context.why_cancelled(), context.done(), context.cancelled()))
            self.cancelled.set()
            raise
        return b""

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            self.seen.append(number)
            yield b"%d" % number

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"%d" % sum([int(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request * 2

    async def written(self, request: bytes, context: Any) -> None:
        await context.write(request)
        await context.write(request)

    async def together(self, request: bytes, context: Any) -> None:
        for number in range(int(request)):
            await context.send(b"%d" % number, more=number < int(request) - 1)
            self.seen.append(number)

    async def abort(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("why", "because"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        raise AssertionError("abort raises")

    async def broken(self, request: bytes, context: Any) -> bytes:
        raise RuntimeError("broken")

    async def ours(self, request: bytes, context: Any) -> bytes:
        raise UsageError("wrong state")

    async def none(self, request: bytes, context: Any) -> Any:
        return None

    async def pipe(self, request: bytes, context: Any) -> bytes:
        reading, writing = os.pipe()
        os.write(writing, request)
        os.close(writing)
        context.attach_fds([Fd(reading)])
        return b"here"

    def handlers(self) -> dict[str, Any]:
        unary = ("echo", "forever", "abort", "broken", "ours", "none", "pipe")
        return {
            **{name: grpc.unary_unary_rpc_method_handler(getattr(self, name)) for name in unary},
            "count": grpc.unary_stream_rpc_method_handler(self.count),
            "written": grpc.unary_stream_rpc_method_handler(self.written),
            "together": grpc.unary_stream_rpc_method_handler(self.together),
            "total": grpc.stream_unary_rpc_method_handler(self.total),
            "both": grpc.stream_stream_rpc_method_handler(self.both),
        }


class Pair:
    """A caller's connection and a server's."""

    def __init__(self, kind: str, settings: Settings = SETTINGS, **arguments: Any) -> None:
        if kind == "unix":
            one, other = socket.socketpair()
            wires: Any = (
                UnixWire(one, peer="the server", accept_fds=True),
                UnixWire(other, peer="the caller", accept_fds=True),
            )
        else:
            wires = memory.pair()
        self.echo = Echo()
        self.server = Server(status_of=lambda error: (error.code, str(error)) if isinstance(error, IpcdError) else None)
        handlers: Any = self.echo.handlers()
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        self.caller = Connection(wires[0], settings, dialer=True)
        self.callee = Connection(wires[1], settings, dialer=False, **arguments)
        self.server.serve(self.callee, "me")

    async def close(self) -> None:
        await self.caller.close()
        await self.callee.closed()
        await self.server.stop()


def run(kind: str, test: Callable[[Pair], Awaitable[None]], **arguments: Any) -> None:
    async def main() -> None:
        pair = Pair(kind, **arguments)
        try:
            async with asyncio.timeout(LONG):
                await pair.caller.handshake()
                await test(pair)
        finally:
            await pair.close()
        assert pair.server.running == 0

    asyncio.run(main())


@pytest.fixture(params=["unix", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ending(awaitable: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(CallFailed) as caught:
        await awaitable
    return caught.value.code, caught.value.details


def test_four_kinds(kind: str) -> None:
    async def test(pair: Pair) -> None:
        caller = pair.caller
        assert await caller.call("/t.T/echo", b"hello", metadata=(("k", "v"),)) == (b"hello", [])
        assert pair.echo.seen.pop() == ((("k", "v"),), "me")
        assert [message async for message in caller.stream("/t.T/count", request=b"5")] == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"4",
        ]
        assert [message async for message in caller.stream("/t.T/written", request=b"x")] == [b"x", b"x"]
        up = caller.stream("/t.T/total")
        for number in range(1000):
            assert await up.send(b"%d" % number)
        up.close_send()
        assert await up.receive() == b"499500"
        assert await up.receive() is None
        both = caller.stream("/t.T/both")
        for number in range(50):
            await both.send(b"%d" % number, end=number == 49)
            assert await both.receive() == b"%d" % number * 2
        await both.finish()
        assert caller.idle

    run(kind, test)


def test_what_handlers_raise(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(pair: Pair) -> None:
        call = pair.caller.call
        with pytest.raises(CallFailed) as caught:
            await call("/t.T/abort", b"")
        assert (caught.value.code, caught.value.details) == (grpc.StatusCode.NOT_FOUND, "not here")
        assert caught.value.trailing == (("why", "because"),)
        assert await ending(call("/t.T/broken", b"")) == (
            grpc.StatusCode.UNKNOWN,
            "Unexpected <class 'RuntimeError'>: broken",
        )
        assert await ending(call("/t.T/ours", b"")) == (grpc.StatusCode.FAILED_PRECONDITION, "wrong state")
        assert await ending(call("/t.T/none", b"")) == (
            grpc.StatusCode.UNKNOWN,
            "Unexpected <class 'TypeError'>: Failed to serialize response! It became NoneType, not bytes",
        )
        assert await ending(call("/t.T/what", b"")) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        empty = pair.caller.stream("/t.T/echo")
        empty.close_send()
        assert (await ending(empty.receive()))[0] is grpc.StatusCode.UNIMPLEMENTED

    run(kind, test)


def test_cancellation_reaches_the_handler(kind: str) -> None:
    async def test(pair: Pair) -> None:
        task = asyncio.create_task(pair.caller.call("/t.T/forever", b""))
        await pair.echo.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await pair.echo.cancelled.wait()
        await pair.echo.done.wait()
        assert pair.echo.seen == [("the caller cancelled the call", True, True)]
        assert pair.caller.idle

    run(kind, test)


def test_a_deadline_ends_both_sides(kind: str) -> None:
    async def test(pair: Pair) -> None:
        code, _ = await ending(pair.caller.call("/t.T/forever", b"", timeout=0.05))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await pair.echo.cancelled.wait()
        assert pair.caller.idle

    run(kind, test)


def test_a_cancelled_server_answers(kind: str) -> None:
    async def test(pair: Pair) -> None:
        task = asyncio.create_task(pair.caller.call("/t.T/forever", b""))
        await pair.echo.started.wait()
        await pair.server.stop()
        assert await ending(task) == (grpc.StatusCode.UNAVAILABLE, "the server has stopped")

    run(kind, test)


def test_the_end_of_the_connection_ends_its_calls(kind: str) -> None:
    async def test(pair: Pair) -> None:
        task = asyncio.create_task(pair.caller.call("/t.T/forever", b""))
        await pair.echo.started.wait()
        pair.callee.fail(WireClosed("gone"))
        assert (await ending(task))[0] is grpc.StatusCode.UNAVAILABLE
        await pair.echo.cancelled.wait()
        assert (await ending(pair.caller.call("/t.T/echo", b"")))[0] is grpc.StatusCode.UNAVAILABLE

    run(kind, test)


def test_what_the_peer_may_have_seen_is_not_tried_elsewhere(kind: str) -> None:
    """Calls that were held back to be sent together are given to the wire all the same."""

    async def test(pair: Pair) -> None:
        tasks = [asyncio.create_task(pair.caller.call("/t.T/forever", b"")) for _ in range(3)]
        while pair.server.running < len(tasks):  # noqa: ASYNC110  they run in this loop
            await asyncio.sleep(0)
        pair.callee.fail(WireClosed("gone"))
        for task in tasks:
            with pytest.raises(CallFailed) as caught:
                await task
            assert not caught.value.refused

    run(kind, test)


def test_a_slow_reader_stops_its_own_stream_only(kind: str) -> None:
    async def test(pair: Pair) -> None:
        slow = pair.caller.stream("/t.T/count", request=b"1000")
        assert await slow.receive() == b"0"
        for _ in range(50):
            assert await pair.caller.call("/t.T/echo", b"x" * 2000) == (b"x" * 2000, [])
        produced = len([one for one in pair.echo.seen if isinstance(one, int)])
        assert produced < 400, "the window is 4096 bytes, and each message costs at least 17"
        assert len([message async for message in slow]) == 999

    run(kind, test)


def test_what_follows_at_once_goes_in_one_write(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(pair: Pair) -> None:
        writes: list[int] = []
        send = pair.callee.wire.send

        def counted(buffers: Any, fds: Any = ()) -> bool:
            writes.append(sum(map(len, buffers)))
            return send(buffers, fds)

        monkeypatch.setattr(pair.callee.wire, "send", counted)
        stream = pair.caller.stream("/t.T/together", request=b"100")
        assert [message async for message in stream] == [b"%d" % number for number in range(100)]
        assert len([size for size in writes if size > 100 * 16]) == 1
        assert len(writes) < 10
        # As much as there is credit for, and no more.
        pair.echo.seen.clear()
        slow = pair.caller.stream("/t.T/together", request=b"1000")
        assert await slow.receive() == b"0"
        await pair.caller.call("/t.T/echo", b"")
        assert len(pair.echo.seen) < 400
        assert len([message async for message in slow]) == 999

    run(kind, test)


def test_descriptors_travel_and_are_owned() -> None:
    async def test(pair: Pair) -> None:
        message, fds = await pair.caller.call("/t.T/pipe", b"through")
        assert message == b"here"
        (fd,) = fds
        with fd:
            assert os.read(fd.fileno(), 100) == b"through"
        before = open_fds()
        stream = pair.caller.stream("/t.T/pipe", request=b"x")
        assert await stream.receive() == b"here"
        stream.cancel()
        assert open_fds() == before, "what nobody takes is closed"

    run("unix", test)


def test_ping_drain_and_refusal(kind: str) -> None:
    async def test(pair: Pair) -> None:
        assert 0 < await pair.caller.ping(LONG) < LONG
        running = pair.caller.stream("/t.T/both")
        await running.send(b"1")
        assert await running.receive() == b"11"
        pair.callee.drain("enough")
        await pair.caller.ping(LONG)
        assert pair.caller.retired
        with pytest.raises(CallFailed) as caught:
            await pair.caller.call("/t.T/echo", b"")
        assert caught.value.refused
        await running.send(b"2", end=True)
        assert await running.receive() == b"22"
        assert await running.receive() is None

    run(kind, test)


async def read_frames(sock: socket.socket) -> list[codec.Frame]:
    """All frames until the end."""
    loop = asyncio.get_running_loop()
    decoder, frames = codec.Decoder(1 << 20), []
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(sock, 1 << 16):
            decoder.feed(data)
            while (frame := decoder.next()) is not None:
                frames.append(frame)
    return frames


HELLO = b"".join(map(bytes, codec.encode(codec.HELLO, 0, b"\x08\x01\x10\x01\x18\x80\x80\x40\x20\x80\x20\x28\x10")))


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown-type"),
        (struct.pack("<IIBBHI", 0xFFFFFFFF, 0, codec.HELLO, 0, 0, 0), "oversized-frame"),
        (b"".join(map(bytes, codec.encode(codec.MESSAGE, 1, b"x"))), "no-hello"),
        (HELLO + HELLO, "second-hello"),
        (HELLO + b"".join(map(bytes, codec.encode(codec.MESSAGE, 7, b"x"))), "unopened-stream"),
    ],
)
def test_what_is_not_the_protocol(data: bytes, violation: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        other.setblocking(False)
        reasons: list[IpcdError] = []
        connection = Connection(UnixWire(one, peer="x"), Settings(), dialer=False, on_closed=reasons.append)
        with other:
            other.sendall(data)
            async with asyncio.timeout(LONG):
                frames = await read_frames(other)
                error = await connection.closed()
        assert isinstance(error, ProtocolError)
        assert error.violation == violation
        assert reasons == [error], "told once"
        assert (frames[-1].type, frames[-1].aux) == (codec.GOAWAY, GOAWAY_VIOLATION)
        assert violation in frames[-1].payload.decode()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (GOAWAY_VIOLATION, Dismissed),
        (GOAWAY_TIMEOUT, Dismissed),
        (GOAWAY_DENIED, Denied),
        (GOAWAY_EXHAUSTED, Exhausted),
    ],
)
def test_a_peer_that_says_why_it_ends_the_connection_lives(code: int, kind: type[IpcdError]) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        connection = Connection(UnixWire(one, peer="x"), Settings(), dialer=False)
        with other:
            other.sendall(HELLO + b"".join(map(bytes, codec.encode(codec.GOAWAY, 0, b"so it is", aux=code))))
            async with asyncio.timeout(LONG):
                error = await connection.closed()
        assert type(error) is kind
        assert "so it is" in str(error)

    asyncio.run(main())


def test_a_silent_peer() -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        other.setblocking(False)
        connection = Connection(UnixWire(one, peer="x"), Settings(), dialer=False, hello_timeout=0.05)
        with other:
            async with asyncio.timeout(LONG):
                frames = await read_frames(other)
            with pytest.raises(WireTimeout, match="no-hello: x sent no HELLO within"):
                await connection.handshake()
        assert (frames[-1].type, frames[-1].aux) == (codec.GOAWAY, GOAWAY_TIMEOUT)

    asyncio.run(main())


def test_half_a_frame() -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        connection = Connection(UnixWire(one, peer="x"), Settings(), dialer=False)
        other.send(HELLO[:7])
        other.close()
        async with asyncio.timeout(LONG):
            error = await connection.closed()
        assert "in the middle of a frame" in str(error)

    asyncio.run(main())


def test_who_asks_and_does_not_read_is_cut_off() -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        other.setblocking(False)
        connection = Connection(UnixWire(one, peer="x"), Settings(), dialer=False, backlog_most=1 << 16)
        with other:
            loop = asyncio.get_running_loop()
            ping = b"".join(map(bytes, codec.encode(codec.PING, 0, b"12345678"))) * 1000
            async with asyncio.timeout(LONG):
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(other, HELLO)
                    while True:
                        await loop.sock_sendall(other, ping)
                error = await connection.closed()
        assert isinstance(error, (TooFarBehind, ProtocolError))

    asyncio.run(main())
