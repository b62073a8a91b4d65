"""Connections that somebody watches over: what their peer sends takes the same ways as elsewhere, and is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import IpcdError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Frame
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.wire.unix import UnixWire

LONG = 10.0  # seconds: far more than anything here takes
HELLO = wire_pb2.Hello(min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 20, max_streams=1000)
PLAIN = codec.WITH_MESSAGE | codec.END


class Watching:
    """A guard that lets everything pass."""

    turn = 3

    def __init__(self) -> None:
        self.took_in: list[tuple[int, int]] = []

    def took(self, frames: int, size: int) -> float:
        self.took_in.append((frames, size))
        return 0.0

    def holds(self, size: int) -> IpcdError | None:
        return None


class Asked(UnixWire):
    """Counts how often it was asked for a frame."""

    asked = 0

    def recv(self) -> Frame | None:
        self.asked += 1
        return super().recv()


class Guarded:
    """A server's end, whose peer has greeted it and called the method once: the method has its number."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.wire = Asked(ours, peer="caller")
        self.guard = Watching()
        self.server = Server()
        self.called: asyncio.Queue[bytes] = asyncio.Queue()
        handlers: Any = {"run": grpc.unary_unary_rpc_method_handler(self.run)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        self.connection = Connection(self.wire, Settings(), dialer=False, guard=self.guard)
        self.server.serve(self.connection, "me")

    async def run(self, request: bytes, _context: Any) -> bytes:
        self.called.put_nowait(request)
        return b""

    def send(self, *frames: tuple[int, int, bytes, int]) -> int:
        """Frames, as `codec.encode` takes them, all at once: how many bytes."""
        data = b"".join(bytes(part) for frame in frames for part in codec.encode(*frame))
        self.theirs.sendall(data)
        return len(data)


def run(test: Callable[[Guarded], Awaitable[None]]) -> None:
    async def main() -> None:
        end = Guarded()
        try:
            async with asyncio.timeout(LONG):
                end.send(
                    (codec.HELLO, 0, HELLO.SerializeToString(), 0),
                    (codec.OPEN, 1, codec.pack_name("/t.T/run") + b"first", PLAIN | codec.WITH_NAME),
                )
                assert await end.called.get() == b"first"
                await test(end)
        finally:
            await end.connection.close()
            await end.server.stop()
            end.theirs.close()

    asyncio.run(main())


def test_a_plain_call_goes_the_short_way() -> None:
    async def test(end: Guarded) -> None:
        end.wire.asked, end.guard.took_in = 0, []
        size = end.send((codec.OPEN, 3, b"lone", PLAIN))
        assert await end.called.get() == b"lone"
        assert (end.wire.asked, end.guard.took_in) == (0, [(1, size)])

    run(test)


def test_all_that_comes_is_counted_whichever_way_it_goes() -> None:
    async def test(end: Guarded) -> None:
        end.guard.took_in = []
        plain = [(codec.OPEN, 2 * number + 3, b"%d" % number, PLAIN) for number in range(8)]
        others = [(codec.PING, 0, bytes(8), 0), (codec.OPEN, 101, b"8", codec.WITH_MESSAGE)]
        size = end.send(*plain, *others, (codec.OPEN, 103, b"9", PLAIN))
        assert [await end.called.get() for _ in range(10)] == [b"%d" % number for number in range(10)]
        assert sum(size for _, size in end.guard.took_in) == size
        assert sum(frames for frames, _ in end.guard.took_in) == 11
        assert max(frames for frames, _ in end.guard.took_in) <= end.guard.turn

    run(test)
