"""Nodes that know each other by `--peer`."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from integration.daemons import Client, Daemon, Daemons, as_socket, attached, dial, eventually, joined, run, until
from ipcd_client.errors import IpcdError
from ipcd_client.frame import preamble
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial as connecting
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tcp import TcpWire

LINKED = node_pb2.NodeInfo.STATE_LINKED


async def linked(client: Client, *names: str) -> dict[str, node_pb2.NodeInfo]:
    """Waits until these nodes and no others are linked."""
    found: dict[str, node_pb2.NodeInfo] = {}

    async def look() -> bool:
        nonlocal found
        found = {name: info for name, info in (await client.nodes()).items() if info.state == LINKED}
        return set(found) == set(names)

    await until(look, f"links with {names}")
    return found


async def serving(client: Client, service: str, *nodes: str) -> list[node_pb2.Server]:
    """Waits until these nodes' servers serve it."""
    servers: list[node_pb2.Server] = []

    async def look() -> bool:
        nonlocal servers
        servers = await client.servers(service)
        return sorted(server.process.node for server in servers) == sorted(nodes)

    await until(look, f"{service} is served on {nodes}")
    return servers


def pair(cluster: Daemons) -> tuple[Daemon, Daemon]:
    b = cluster.run("b")
    return cluster.run("a", "--peer", b.listen), b


async def hears(sock: object) -> str:
    """Why a node ends a data connection."""
    connection = Connection(TcpWire(sock, peer="b"), Settings(), dialer=True)  # type: ignore[arg-type]
    with pytest.raises(IpcdError) as caught:
        await connection.handshake()
    return str(caught.value)


def test_the_whole_road(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as caller, attached(b) as server_side:
            nodes = await linked(caller, "b")
            assert nodes["b"].dialed
            assert nodes["b"].address == b.listen
            assert nodes["b"].source == "peer"
            assert not (await linked(server_side, "a"))["a"].dialed
            server = await server_side.register("x.X")
            assert await serving(caller, "x.X", "b") == [server.server]
            answer, ours = await caller.open("x.X")
            grant, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)
                assert answer.choice.transport == grant.transport == node_pb2.TRANSPORT_TCP
                way = "direct: the caller dials"
                assert answer.choice.reason == f"tcp: the server is on node b, the caller on node a; {way}"
                assert answer.choice.server == server.server
                assert (grant.caller.node, grant.caller.pid, grant.service) == ("a", os.getpid(), "x.X")
                # A token is good once.
                assert "bad-token" in await hears(await dial(answer.address, answer.token))
                assert "bad-token" in await hears(await dial(answer.address, bytes(16)))
                b.logged("connection refused", "bad-token")
                # The two go on without their nodes.
                a.kill()
                b.kill()
                assert await joined(ours, theirs)

    run(main)


def test_own_node_first_the_other_when_it_is_asked_for(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as here, attached(b) as there:
            far = await there.register("x.X", name="far")
            await serving(here, "x.X", "b")
            near = await here.register("x.X", name="near")
            for node, server, name in (("", "", "near"), ("b", "", "far"), ("", "far", "far")):
                answer, sock = await here.open("x.X", node=node, server=server)
                sock.close()
                assert answer.choice.server.name == name
            with pytest.raises(CallFailed, match="UNIX socket does not reach from node a to node b"):
                await here.open("x.X", node="b", transport=node_pb2.TRANSPORT_UNIX)
            near.stream.cancel()
            await serving(here, "x.X", "b")
            answer, sock = await here.open("x.X")
            sock.close()
            assert answer.choice.server == far.server
            far.stream.cancel()
            await serving(here, "x.X")
            with pytest.raises(CallFailed, match=r"no server for x\.X on nodes a, b"):
                await here.open("x.X")

    run(main)


def test_waiting_for_a_server_elsewhere(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as caller, attached(b) as there:
            waiting = asyncio.create_task(caller.open("x.X", node="b", wait=True))
            server = await there.register("x.X")
            _, ours = await waiting
            _, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)

    run(main)


def test_both_dial_and_one_link_stays(cluster: Daemons) -> None:
    """Each of three nodes is told of every other, itself included."""
    ports = [cluster.run(name) for name in ("a", "b", "c")]
    addresses = [daemon.listen for daemon in ports]
    for daemon in ports:
        daemon.stop()
    peers = [word for address in addresses for word in ("--peer", address)]
    started = [cluster.start(name, "--listen", address, *peers) for name, address in zip("abc", addresses, strict=True)]
    for daemon in started:
        daemon.up()

    async def main() -> None:
        for daemon in started:
            async with attached(daemon) as client:
                await linked(client, *({"a", "b", "c"} - {daemon.node}))
        # They stay: none is given up for another again and again. One that is dialed by the other end may still be on
        # its way, and replace what there is, once.
        for daemon in started:
            async with attached(daemon) as client:

                async def lasting(client: Client = client, others: set[str] = {"a", "b", "c"} - {daemon.node}) -> bool:
                    infos = await linked(client, *others)
                    return min(info.age for info in infos.values()) > 1.5

                await until(lasting, "links that stay")

    run(main)
    for one in started:
        one.logged("found this node itself")


def test_a_peer_with_a_name(cluster: Daemons) -> None:
    """The name stands for more than one address, or for one at which nobody listens, depending on the machine."""
    b = cluster.run("b")
    port = b.listen.rpartition(":")[2]
    a = cluster.run("a", "--peer", f"localhost:{port}", "--peer", f"{'x' * 70}.example:{port}")
    a.logged("no link", "it is no host name")

    async def main() -> None:
        async with attached(a) as client:
            nodes = await linked(client, "b")
            assert nodes["b"].address == b.listen
            assert nodes["b"].source == "peer"
            # Nobody is told of another address of localhost that does not answer.
            [wrong] = [info for info in await client.every_node() if info.error]
            assert wrong.address == f"{'x' * 70}.example:{port}"

    run(main)


def test_nodes_tell_each_other_of_nodes(cluster: Daemons) -> None:
    hub = cluster.run("hub")
    spokes = [cluster.run(name, "--peer", hub.listen) for name in ("a", "b", "c")]

    async def main() -> None:
        async with attached(spokes[0]) as client:
            infos = await linked(client, "hub", "b", "c")
            assert infos["hub"].source == "peer"
            hub.kill()
            await linked(client, "b", "c")

    run(main)


def test_a_killed_node_is_gone_and_its_successor_is_met(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as client:
            async with attached(b) as there:
                await there.register("x.X")
                await serving(client, "x.X", "b")
                b.kill()
                await serving(client, "x.X")
                await linked(client)
            with pytest.raises(CallFailed, match=r"no server for x\.X on node a"):
                await client.open("x.X")
            successor = cluster.run("b", "--listen", b.listen)
            await linked(client, "b")
            async with attached(successor) as there:
                await there.register("x.X")
                await serving(client, "x.X", "b")

    run(main)


def test_a_stopped_node_says_goodbye(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as client:
            await linked(client, "b")
            assert b.stop() == 0
            await linked(client)

    run(main)


def test_a_node_that_is_silent_is_suspected_then_gone_then_back(cluster: Daemons) -> None:
    a, b = pair(cluster)

    async def main() -> None:
        async with attached(a) as client, attached(b) as there:
            await there.register("x.X")
            await serving(client, "x.X", "b")
            b.process.send_signal(signal.SIGSTOP)

            async def suspected() -> bool:
                return (await client.nodes())["b"].state == node_pb2.NodeInfo.STATE_SUSPECT

            await until(suspected, "b is suspected")
            await serving(client, "x.X")
            b.process.send_signal(signal.SIGCONT)
            await serving(client, "x.X", "b")

    run(main)
    assert "silent" in a.logged("node gone", "heartbeat")["reason"]


def test_two_nodes_of_one_name(cluster: Daemons) -> None:
    hub = cluster.run("hub")
    first = cluster.run("twin", "--peer", hub.listen)
    hub.logged("node linked", "twin")
    both = [first.listen]
    (cluster.folder / "other").mkdir()
    second = cluster.run("twin", "--peer", hub.listen, "--socket", str(cluster.folder / "other" / "ipcd.sock"))
    second.socket = str(cluster.folder / "other" / "ipcd.sock")
    reason = reason_of_second = second.logged("no link", "two nodes are named")["reason"]
    both.append(second.listen)
    for told in (reason, hub.logged("link refused", "two nodes are named")["reason"]):
        assert [address in told for address in both] == [True, True], told
    third = cluster.run("hub", "--peer", hub.listen, "--socket", str(cluster.folder / "other" / "hub.sock"))
    reason = third.logged("no link", "two nodes are named")["reason"]
    assert [address in reason for address in (third.listen, hub.listen)] == [True, True], reason

    async def main() -> None:
        async with attached(hub) as client:
            infos = await linked(client, "twin")
            assert infos["twin"].address == first.listen
            # Who was refused is seen on both sides.
            refused = {info.address: info for info in await client.every_node() if info.error}
            assert {second.listen, third.listen} <= set(refused)
            assert all("two nodes are named" in info.error for info in refused.values())
        async with attached(second) as client:
            [info] = await client.every_node()
            assert info.error == reason_of_second

    run(main)


def test_other_clusters_are_left_alone(cluster: Daemons) -> None:
    b = cluster.run("b", "--cluster", "other")
    a = cluster.run("a", "--peer", b.listen)
    a.logged("no link", "belongs to cluster")

    async def main() -> None:
        async with attached(a) as client:
            assert "belongs to cluster" in next(iter((await client.nodes()).values())).error

    run(main)


def test_nodes_are_remembered(cluster: Daemons) -> None:
    b = cluster.run("b")
    state = cluster.folder / "state"
    a = cluster.run("a", "--peer", b.listen, "--state-dir", str(state))
    a.logged("node linked")
    file = state / "nodes.json"
    eventually(lambda: file.exists() and json.loads(file.read_text()) == [b.listen], "the file")
    a.stop()
    again = cluster.run("a", "--state-dir", str(state))
    assert again.logged("node linked")["peer"] == "b"
    again.stop()
    (state / "nodes.json").write_text("{")
    cluster.run("a", "--state-dir", str(state)).logged("the nodes of the last run are not known")


def test_a_link_is_needed_for_an_introduction(cluster: Daemons) -> None:
    """Whoever connects as a node, and has not said which, gets nothing."""
    b = cluster.run("b")

    async def main() -> None:
        async with attached(b) as there:
            await there.register("x.X")
            sock = await connecting.tcp(b.listen, 5.0, preamble.pack(preamble.PEER))
            connection = Connection(TcpWire(as_socket(Fd(sock.detach())), peer="b"), Settings(), dialer=True)
            await connection.handshake()
            with pytest.raises(CallFailed, match="own-callers"):
                await connection.call("/ipcd.v1.Peer/Introduce", b"")
            with pytest.raises(CallFailed, match="Method not found"):
                await connection.call("/ipcd.v1.Node/ListCatalog", b"")
            await connection.close()

    run(main)
