"""Daemons and servers that run out of something, one fault at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import ipcd_client
import pytest
from faults.limits import no_descriptors
from integration.daemons import (
    LONG,
    Client,
    Daemon,
    Daemons,
    as_socket,
    attached,
    daemons,
    dial,
    eventually,
    run,
    until,
)
from ipcd_client.errors import IpcdError, WireError
from ipcd_client.frame import preamble
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial as connecting
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.dial import unix as dial_unix
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc, peer_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import unix
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tcp import TcpWire
from sdk.processes import SERVER, TESTS, processes

SERVICE = "conformance.v1.Echo"
# Makes a small file system of its own at the first argument, and runs the rest.
ON_A_SMALL_DISK = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=8k none "$0" && exec "$@"')


@pytest.fixture
def cluster() -> Iterator[Daemons]:
    with daemons() as all_of_them:
        yield all_of_them


def servers(daemon: Daemon) -> list[str]:
    """Names in the catalog."""
    with ipcd_client.channel("ipcd-node:", node=daemon.socket) as channel:
        api = node_pb2_grpc.NodeStub(channel)
        reply = api.ListCatalog(node_pb2.ListCatalogRequest(service=SERVICE), timeout=LONG)
        return [server.name for server in reply.servers]


def test_a_server_registers_again_when_it_has_descriptors_again(cluster: Daemons) -> None:
    daemon = cluster.run()
    with processes(cluster.folder) as world:
        server = world.ready("one", "-c", SERVER, TESTS, "one", daemon.socket)
        with no_descriptors([server.pid]):
            daemon.stop()
            daemon = cluster.run()
            # A thread of it looks for the daemon by now, and can open nothing.
            eventually(lambda: len(list(Path(f"/proc/{server.pid}/task").iterdir())) > 1, "it tries")
            assert servers(daemon) == []
        eventually(lambda: servers(daemon) == ["one"], "it is registered again")


def test_a_daemon_serves_on_when_it_has_no_descriptors(cluster: Daemons) -> None:
    """Who is attached is answered; who comes waits, and gets in when there are some again."""
    daemon = cluster.run()
    with processes(cluster.folder) as world, futures.ThreadPoolExecutor(1) as pool:
        world.ready("one", "-c", SERVER, TESTS, "one", daemon.socket)
        assert servers(daemon) == ["one"]
        with ipcd_client.channel("ipcd-node:", node=daemon.socket) as channel:
            api = node_pb2_grpc.NodeStub(channel)
            api.Status(node_pb2.StatusRequest(), timeout=LONG)
            with no_descriptors([daemon.process.pid]):
                late = pool.submit(world.ready, "two", "-c", SERVER, TESTS, "two", daemon.socket)
                daemon.logged("cannot accept connections")
                assert api.Status(node_pb2.StatusRequest(), timeout=LONG).pid == daemon.process.pid
            late.result(LONG)
            assert sorted(servers(daemon)) == ["one", "two"]


def test_a_full_disk_is_named_and_left_as_it_was(cluster: Daemons) -> None:
    """ENOSPC in --state-dir: what was kept before is kept, nothing lies about, and the node goes on."""
    state = cluster.folder / "state"
    state.mkdir()
    mounted = subprocess.run([*ON_A_SMALL_DISK, str(state), "true"], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted: {mounted.stderr}")
    b = cluster.run("b")
    launcher = (*ON_A_SMALL_DISK, str(state))
    arguments = ("--no-discovery", "--peer", b.listen, "--state-dir", str(state))
    a = cluster.add(Daemon(cluster.folder, "a", arguments, {}, launcher)).up()
    inside = Path(f"/proc/{a.process.pid}/root{state}")
    eventually((inside / "nodes.json").exists, "the nodes are kept")
    kept = (inside / "nodes.json").read_text()
    with (inside / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    b.kill()
    a.logged("node gone")
    c = cluster.run("c", "--peer", a.listen)
    c.logged("node linked")
    assert "No space left" in str(a.logged("the nodes cannot be kept")["reason"])
    assert (inside / "nodes.json").read_text() == kept
    assert sorted(path.name for path in inside.iterdir()) == ["filler", "nodes.json"]
    (inside / "filler").unlink()
    c.kill()
    cluster.run("d", "--peer", a.listen).logged("node linked")
    eventually(lambda: (inside / "nodes.json").read_text() != kept, "the nodes are kept again")


@pytest.mark.parametrize("after_hello", [False, True])
def test_a_message_between_nodes_that_does_not_parse(cluster: Daemons, after_hello: bool) -> None:
    """Bits that flipped on a link, say: the link is ended, with a reason, and that is all."""
    daemon = cluster.run()

    async def main() -> None:
        sock = await connecting.tcp(daemon.listen, 5.0, preamble.pack(preamble.PEER))
        connection = Connection(TcpWire(as_socket(Fd(sock.detach())), peer="a"), Settings(), dialer=True)
        await connection.handshake()
        with pytest.raises(CallFailed, match="does not parse"):
            await connection.call("/ipcd.v1.Peer/Introduce", b"\xff\xff", timeout=LONG)
        stream = connection.stream("/ipcd.v1.Peer/Link")
        if after_hello:
            hello = peer_pb2.PeerHello(node="x", incarnation="1", cluster="default")
            await stream.send(peer_pb2.LinkMessage(hello=hello).SerializeToString())
            assert await stream.receive() is not None
        await stream.send(b"\xff\xff")
        with contextlib.suppress(IpcdError):
            while await stream.receive() is not None:
                pass
        await connection.close()

    run(main)
    daemon.logged("node gone" if after_hello else "link refused", "does not parse")
    daemon.stop()
    assert "raceback" not in daemon.text()


@pytest.mark.parametrize("how", ["loop", "threads"])
def test_who_has_no_descriptors_attaches_to_nothing(cluster: Daemons, how: str) -> None:
    """And is told so in an error that callers know: with another, a call on a loop waited until its deadline."""
    daemon = cluster.run()
    with asyncio.Runner() as runner:
        runner.get_loop()  # which has descriptors of its own

        def connect() -> socket.socket:
            if how == "loop":
                return runner.run(dial_unix(daemon.socket, LONG))
            return unix.connect(daemon.socket, LONG)

        with no_descriptors([os.getpid()]), pytest.raises(WireError, match="Too many open files"):
            connect()
        connect().close()


def test_a_daemon_without_descriptors_says_so_to_who_is_attached(cluster: Daemons) -> None:
    daemon = cluster.run()

    async def main() -> None:
        async with attached(daemon) as here:
            await here.register("x.X")
            with no_descriptors([daemon.process.pid]), pytest.raises(CallFailed, match="Too many open files") as caught:
                await here.open("x.X")
            assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            _, sock = await here.open("x.X")
            sock.close()

    run(main)
    daemon.stop()
    assert "raceback" not in daemon.text()


def test_a_caller_whose_server_has_gone_is_denied_nothing(cluster: Daemons) -> None:
    """It comes with a token that is good, for a server that has just ended: another may take its call."""
    b = cluster.run("b")
    a = cluster.run("a", "--peer", b.listen)

    async def main() -> None:
        async with attached(a) as here:
            async with attached(b) as there:
                await there.register("x.X")
                await until(lambda: here.servers("x.X"), "a knows the server")
                _, sock = await here.open("x.X")
                sock.close()
                request = node_pb2.OpenRequest(target=node_pb2.ResolveRequest(service="x.X"))
                reply = await here.call("Open", request, node_pb2.OpenReply)
            await until(lambda: _none(here), "the server is gone")
            error = await _refusal(reply)
            assert error.code is grpc.StatusCode.UNAVAILABLE

    run(main)
    b.logged("connection refused", "no-server")


def test_a_daemon_with_one_descriptor_left_takes_a_caller_and_says_why_not(cluster: Daemons) -> None:
    b = cluster.run("b")
    a = cluster.run("a", "--peer", b.listen)

    async def main() -> None:
        async with attached(a) as here, attached(b) as there:
            await there.register("x.X")
            await until(lambda: here.servers("x.X"), "a knows the server")
            request = node_pb2.OpenRequest(target=node_pb2.ResolveRequest(service="x.X"))
            reply = await here.call("Open", request, node_pb2.OpenReply)
            with no_descriptors([b.process.pid], spare=1):
                error = await _refusal(reply)
                assert error.code is grpc.StatusCode.UNAVAILABLE
            b.logged("connection refused", "no-descriptor")
            _, sock = await here.open("x.X")
            sock.close()

    run(main)
    b.stop()
    assert "raceback" not in b.text()


async def _none(client: Client) -> bool:
    return not await client.servers("x.X")


async def _refusal(reply: node_pb2.OpenReply) -> IpcdError:
    """Why the node at which the reply tells to call does not take this."""
    connection = Connection(TcpWire(await dial(reply.address, reply.token), peer="b"), Settings(), dialer=True)
    with pytest.raises(IpcdError) as caught:
        await connection.handshake()
    await connection.close()
    return caught.value
