"""Servers and callers of one node."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from integration.daemons import API, LONG, Client, Daemon, Daemons, attached, joined, run, until
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits

TESTS = str(Path(__file__).parents[1])


async def failing(client: Client, service: str, **target: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(CallFailed) as caught:
        await client.open(service, **target)  # type: ignore[arg-type]
    return caught.value.code, caught.value.details


def test_an_introduction(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as server_side, attached(daemon) as caller:
            server = await server_side.register("x.X", "y.Y", name="canary")
            assert (server.server.name, list(server.server.services)) == ("canary", ["x.X", "y.Y"])
            assert await caller.servers("y.Y") == [server.server]
            assert await caller.servers("z.Z") == []
            request = node_pb2.ResolveRequest(service="x.X")
            reply = await caller.call("Resolve", request, node_pb2.ResolveReply)
            (candidate,) = reply.candidates
            assert candidate.chosen
            assert candidate.transport == node_pb2.TRANSPORT_SHM
            assert candidate.reason == "shm: caller and server share node a"
            answer, ours = await caller.open("x.X")
            grant, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)
                assert answer.choice.server == server.server
                assert (grant.service, grant.transport) == ("x.X", node_pb2.TRANSPORT_SHM)
                assert grant.caller.node == "a"
                # The two go on without the daemon.
                daemon.kill()
                assert await joined(ours, theirs)

    run(main)


def test_tcp_on_the_same_node(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client:
            server = await client.register("x.X")
            answer, ours = await client.open("x.X", transport=node_pb2.TRANSPORT_TCP)
            grant, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)
                assert answer.address == daemon.listen
                assert grant.transport == node_pb2.TRANSPORT_TCP
                host, port = ours.getsockname()
                assert grant.address == f"{host}:{port}"

    run(main)


def test_whom_a_caller_gets(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client, contextlib.AsyncExitStack() as stack:
            servers = [await client.register("x.X", name=name) for name in ("one", "two", "three")]

            async def opened(server: str = "") -> str:
                answer, sock = await client.open("x.X", server=server)
                stack.callback(sock.close)
                return answer.choice.server.name

            assert {await opened() for _ in range(3)} == {"one", "two", "three"}, "each has its turn"
            assert [await opened(server="two") for _ in range(2)] == ["two", "two"]
            assert [await opened() for _ in range(4)].count("two") == 0, "it has two connections more"
            servers[2].stream.cancel()
            await until(lambda: _names(client, {"one", "two"}), "the third one is gone")
            assert "three" not in {await opened() for _ in range(5)}

    run(main)


async def _names(client: Client, names: set[str]) -> bool:
    return {server.name for server in await client.servers("x.X")} == names


def test_what_a_caller_that_is_gone_had_is_over(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client:
            await client.register("x.X")

            async def connections() -> int:
                request = node_pb2.ResolveRequest(service="x.X")
                return (await client.call("Resolve", request, node_pb2.ResolveReply)).candidates[0].connections

            async with attached(daemon) as caller:
                _, sock = await caller.open("x.X")
                sock.close()
                assert await connections() == 1

            async def none() -> bool:
                return await connections() == 0

            await until(none, "the connection is not counted any more")

    run(main)


def test_why_there_is_no_introduction(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client:
            unavailable, impossible = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION
            assert await failing(client, "x.X") == (unavailable, "no server for x.X on node a")
            await client.register("x.X")
            assert await failing(client, "x.X", node="q") == (
                unavailable,
                "node q is not known; the known ones are a",
            )
            assert await failing(client, "x.X", server="s") == (unavailable, "no server 's' for x.X on node a")
            code, words = await failing(client, "x.X", transport=17)
            assert code is impossible
            assert "17" in words
            code, words = await failing(client, "x" * 300)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "limit of 255 characters" in words

    run(main)


def test_waiting_for_a_server(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client, attached(daemon) as other:
            waiting = asyncio.create_task(client.open("x.X", wait=True))
            with pytest.raises(CallFailed) as caught:
                await client.open("x.X", wait=True, timeout=0.05)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            server = await other.register("x.X")
            _, ours = await waiting
            _, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)

    run(main)


def test_waiting_is_bounded(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client, attached(daemon) as other:
            tasks = [asyncio.create_task(client.open("x.X", wait=True)) for _ in range(limits.WAITING_PER_CONNECTION)]
            await asyncio.sleep(0)
            code, words = await failing(client, "x.X", wait=True)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"limit of {limits.WAITING_PER_CONNECTION}" in words
            waiting = asyncio.create_task(other.open("x.X", wait=True))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await other.register("x.X")
            _, sock = await waiting
            sock.close()

    run(main)


def test_a_registration_changes_and_ends_with_its_call(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client, attached(daemon) as watcher:
            watch = watcher.connection.stream(API + "WatchCatalog", request=b"")

            async def seen() -> list[list[str]]:
                message = await watch.receive()
                assert message is not None
                return [list(server.services) for server in node_pb2.ListCatalogReply.FromString(message).servers]

            assert await seen() == []
            server = await client.register("x.X")
            assert await seen() == [["x.X"]]
            change = node_pb2.RegisterRequest(services=["y.Y"])
            await server.stream.send(change.SerializeToString())
            assert await seen() == [["y.Y"]]
            server.stream.close_send()
            assert await server.stream.receive() is None
            assert await seen() == []

    run(main)


SERVER = """
import asyncio, sys
sys.path[:0] = [sys.argv[1]]
from integration import daemons
class There:
    socket, node = sys.argv[2], "a"
async def main():
    async with daemons.attached(There) as client:
        await client.register("x.X", name="child")
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def _child(daemon: Daemon) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, TESTS, daemon.socket], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_server_is_gone(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    with _child(daemon) as process:

        async def main() -> None:
            async with attached(daemon) as client:
                (server,) = await client.servers("x.X")
                assert server.process.pid == process.pid
                process.kill()
                process.wait()
                await until(lambda: _names(client, set()), "the server is gone")
                assert (await failing(client, "x.X"))[0] is grpc.StatusCode.UNAVAILABLE

        run(main)


def test_a_server_that_does_not_read_is_passed_over(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    with _child(daemon) as process:

        async def main() -> None:
            async with attached(daemon) as client, contextlib.AsyncExitStack() as stack:
                process.send_signal(signal.SIGSTOP)
                good = await client.register("x.X", name="good")
                got: list[str] = []
                # Its socket and its credit take some; then they all go to the other one.
                for _ in range(600):
                    answer, sock = (
                        await client.open("x.X", server="child") if len(got) < 3 else await client.open("x.X")
                    )
                    stack.callback(sock.close)
                    got.append(answer.choice.server.name)
                    if answer.choice.server.name == "good":
                        _, theirs = await good.granted()
                        stack.callback(theirs.close)
                assert got.count("good") > 200
                assert set(got) == {"good", "child"}
                process.send_signal(signal.SIGCONT)

        try:
            run(main)
        finally:
            process.kill()


def test_limits_of_a_registration(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client, attached(daemon) as other:
            for services, words in (
                ([f"s{number}" for number in range(limits.SERVICES + 1)], f"limit of {limits.SERVICES} services"),
                (["s" * 256], "limit of 255 characters"),
            ):
                with pytest.raises(CallFailed, match=words) as caught:
                    await client.register(*services)
                assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            for _ in range(limits.SERVERS_PER_CONNECTION):
                await client.register("x.X")
            with pytest.raises(CallFailed, match=f"limit of {limits.SERVERS_PER_CONNECTION} servers of one connection"):
                await client.register("x.X")
            await other.register("x.X")
            assert len(await other.servers()) == limits.SERVERS_PER_CONNECTION + 1

    run(main)


def test_a_stopping_node_tells_its_processes(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon) as client:
            server = await client.register("x.X")
            daemon.process.send_signal(signal.SIGTERM)
            with pytest.raises(CallFailed) as caught:
                await server.stream.receive()
            assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            await client.connection.closed()
            assert client.connection.core.going_away

    run(main)
    assert daemon.process.wait(LONG) == 0
