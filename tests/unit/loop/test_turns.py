"""Whose frames are read first, where one process has many connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
from ipcd_client.aio.dispatch import Server
from ipcd_client.frame import codec
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.reading import TURN
from ipcd_client.loop.turns import Turns
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.wire.unix import UnixWire

LONG = 10.0  # seconds: far more than anything here takes
CALLS = 60  # of each connection


def connected() -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    return Connection(UnixWire(ours, peer="caller"), Settings(), dialer=False), theirs


def sent(message: bytes, count: int) -> bytes:
    """A hello and so many calls."""
    hello = wire_pb2.Hello(min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 20, max_streams=1000)
    frames = [codec.encode(codec.HELLO, 0, hello.SerializeToString())]
    flags = codec.WITH_NAME | codec.WITH_MESSAGE | codec.END
    frames.append(codec.encode(codec.OPEN, 1, codec.pack_name("/t.T/run") + message, flags, 0))
    flags = codec.WITH_MESSAGE | codec.END
    frames += [codec.encode(codec.OPEN, 2 * number + 3, message, flags, 0) for number in range(count - 1)]
    return b"".join(bytes(part) for frame in frames for part in frame)


def test_many_connections_of_one_process_do_not_hold_up_another() -> None:
    begun: list[bytes] = []
    all_begun = asyncio.Event()

    async def run(request: bytes, _context: Any) -> bytes:
        begun.append(request[:1])
        if len(begun) == CALLS * 16 + 1:
            all_begun.set()
        return b""

    async def main() -> None:
        server, turns = Server(), Turns()
        handlers: Any = {"run": grpc.unary_unary_rpc_method_handler(run)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        made = [connected() for _ in range(17)]
        for connection, theirs in made:
            # The one that is looked at last is the good one.
            good = connection is made[-1][0]
            theirs.sendall(sent(b"good" if good else bytes(1000), 1 if good else CALLS))
            turns.add(good, connection)
            server.serve(connection, "me")
        async with asyncio.timeout(LONG):
            await all_begun.wait()
        for connection, theirs in made:
            turns.remove(connection is made[-1][0], connection)
            await connection.close()
            theirs.close()
        await server.stop()

    asyncio.run(main())
    assert begun.index(b"g") <= 2 * TURN


def test_each_has_the_whole_turn_again_when_the_others_are_gone() -> None:
    async def main() -> None:
        turns = Turns()
        made = [connected() for _ in range(3)]
        shares = []
        for connection, _ in made:
            turns.add("a", connection)
            shares.append(connection.turn)
        for connection, theirs in made[:2]:
            turns.remove("a", connection)
            shares.append(made[2][0].turn)
            await connection.close()
            theirs.close()
        assert shares == [TURN, TURN // 2, TURN // 3, TURN // 2, TURN]
        await made[2][0].close()
        made[2][1].close()

    asyncio.run(main())
