"""Connections that another node dials back, over real sockets; the two nodes are in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ipcd_client.errors import NodeError, WireError
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.loop import dial
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd

from ipcd import limits, ways
from ipcd.broker import Broker
from ipcd.listener import TcpDoor, address_of, listen_tcp
from ipcd.log import Log
from ipcd.peer_servicer import PeerServicer
from ipcd.state.catalog import Catalog
from ipcd.state.reach import NODE, REVERSE, Reach

LONG = 20.0  # seconds: far more than anything here takes
INTRODUCTION = b"i" * preamble.TOKEN_SIZE


class World:
    """Node a with its TCP door, a caller there that cannot dial, and the server on node b."""

    def __init__(self) -> None:
        log = Log("a")
        self.ways = ways.Ways("a", log, asyncio.get_running_loop().time)
        sock = listen_tcp("127.0.0.1:0")
        self.address = address_of(sock)
        self.door = TcpDoor(sock, log, self._on_preamble)
        self.reach = Reach()
        self.reach.undialed("b", "no route", asyncio.get_running_loop().time())
        self.refusal = ""
        self.servers: list[socket.socket] = []
        self.requests: list[peer_pb2.ConnectBackRequest] = []

    async def _on_preamble(self, sock: socket.socket, kind: int, token: bytes, where: str) -> None:
        assert kind == preamble.DATA
        fd = Fd(sock.detach())
        if not self.ways.arrived(token, fd):
            again = socket.socket(fileno=fd.detach())
            self.door.turn_away(again, where, "bad-token", frame_settings.GOAWAY_DENIED)

    def _at_the_server(self, introduction: bytes, fd: Fd, address: str) -> str:
        assert (introduction, address) == (INTRODUCTION, self.address)
        if not self.refusal:
            self.servers.append(socket.socket(fileno=os.dup(fd.fileno())))
            self.servers[-1].setblocking(False)
            fd.close()
        return self.refusal

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:
        """As node b does."""
        assert node == "b"
        self.requests.append(request)
        await ways.dial_back(self.address, request, self._at_the_server)

    async def make(
        self, connect_back: Callable[[str, peer_pb2.ConnectBackRequest], Awaitable[None]] | None = None
    ) -> tuple[node_pb2.OpenReply, list[Fd]]:
        """Where nobody listens at the address of node b."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            reply = node_pb2.OpenReply(address=address_of(closed), token=INTRODUCTION)
            reply.choice.server.process.node = "b"
            fds = await self.ways.make(self.reach, reply, connect_back or self.connect_back)
        return reply, fds

    async def close(self) -> None:
        await self.door.close()
        for server in self.servers:
            server.close()


def run(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LONG):
            world = World()
            try:
                await story(world)
            finally:
                await world.close()

    asyncio.run(main())


async def heard(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1000)


def test_the_caller_gets_what_the_other_node_dialed() -> None:
    async def story(world: World) -> None:
        reply, [fd] = await world.make()
        [server] = world.servers
        with socket.socket(fileno=fd.detach()) as caller:
            caller.send(b"hello")
            assert await heard(server) == b"hello"
        # There is nothing that somebody could still dial with.
        assert (reply.address, reply.token) == ("", b"")
        assert "; reverse: node b dials back, because the caller could not (no route) and node a could" in (
            reply.choice.reason
        )
        assert world.reach.plan("b", False, asyncio.get_running_loop().time()) == [REVERSE, NODE]

    run(story)


def test_a_token_is_good_once() -> None:
    async def story(world: World) -> None:
        _, [fd] = await world.make()
        with fd:
            token = world.requests[0].token
            for replayed in (token, INTRODUCTION, bytes(preamble.TOKEN_SIZE)):
                with await dial.tcp(world.address, LONG, preamble.pack(preamble.DATA, replayed)) as sock:
                    assert b"bad-token" in await heard(sock)

    run(story)


def test_a_token_is_no_good_after_it_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "DIAL", 0.1)

    async def story(world: World) -> None:
        async def does_not_dial(_node: str, request: peer_pb2.ConnectBackRequest) -> None:
            world.requests.append(request)

        with pytest.raises(NodeError, match=r"node b could not \(node b did not get here within 0\.1 s\)"):
            await world.make(does_not_dial)
        with await dial.tcp(world.address, LONG, preamble.pack(preamble.DATA, world.requests[0].token)) as sock:
            assert b"bad-token" in await heard(sock)

    run(story)


def test_a_caller_that_gives_up_leaves_no_connection() -> None:
    async def story(world: World) -> None:
        dialed = asyncio.Event()

        async def answers_late(node: str, request: peer_pb2.ConnectBackRequest) -> None:
            await world.connect_back(node, request)
            dialed.set()
            await asyncio.Event().wait()

        making = asyncio.create_task(world.make(answers_late))
        await dialed.wait()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        # Closed, or refused if the door had not yet taken it in.
        while await heard(world.servers[0]):
            pass

    run(story)


def test_each_way_that_failed_is_named() -> None:
    async def story(world: World) -> None:
        world.refusal = "no-server: the server has gone"
        with pytest.raises(NodeError) as failed:
            await world.make()
        for words in ("the caller could not (no route)", "node a could not (", "node b could not (no-server"):
            assert words in str(failed.value)

    run(story)


@pytest.mark.parametrize(
    ("address", "token", "error"),
    [
        ("", bytes(preamble.TOKEN_SIZE), NodeError),
        ("127.0.0.1:1", b"short", limits.InvalidRequest),
        ("127.0.0.1:1", bytes(preamble.TOKEN_SIZE), WireError),
    ],
)
def test_a_node_does_not_dial_for_everybody(address: str, token: bytes, error: type[Exception]) -> None:
    async def story(_world: World) -> None:
        request = peer_pb2.ConnectBackRequest(introduction=INTRODUCTION, token=token)
        with pytest.raises(error):
            await ways.dial_back(address, request, lambda *_: pytest.fail("nobody has come"))

    run(story)


def test_who_is_to_dial_us_does_not_make_us_dial_instead() -> None:
    """The connection would be closed again before the caller has it."""

    async def story(world: World) -> None:
        broker = Broker("a", Catalog("a"), Log("a"), asyncio.get_running_loop().time)
        peer: Any = SimpleNamespace(link=SimpleNamespace(node="b", address=world.address))
        peer.linked = lambda: asyncio.sleep(0, peer.link)
        links: Any = None
        context: Any = SimpleNamespace(peer_identity=peer)
        reply = node_pb2.OpenReply(address="127.0.0.1:1", token=INTRODUCTION)
        reply.choice.server.process.node = "b"

        async def connect_back(_node: str, request: peer_pb2.ConnectBackRequest) -> None:
            swapped = peer_pb2.ConnectBackRequest(introduction=request.token, token=request.token)
            await PeerServicer(links, broker).ConnectBack(swapped, context)

        with pytest.raises(NodeError, match="bad-token"):
            await broker.ways.make(world.reach, reply, connect_back)

    run(story)


def test_what_a_caller_says_is_bounded() -> None:
    async def story(world: World) -> None:
        world.ways.undialed(world.reach, node_pb2.Undialed(node="c", reason="x" * 10_000))
        assert len(world.reach.why("c", asyncio.get_running_loop().time())) < 1000
        with pytest.raises(limits.InvalidRequest):
            world.ways.undialed(world.reach, node_pb2.Undialed(node="a node", reason="x"))

    run(story)
