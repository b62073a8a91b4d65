"""Servers on event loops and a real daemon: how they are registered, and until when."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from ipcd_client.errors import IpcdError, NoDaemon
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc, wire_pb2
from sdk.aio_server import SERVICE, Echo
from sdk.processes import LONG, Processes


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On a loop of its own, in debug mode. Nothing may be left on it."""

    async def limited() -> None:
        async with asyncio.timeout(2 * LONG):
            await main()
        for _ in range(10):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(limited(), debug=True)


def serving(world: Processes, **arguments: Any) -> ipcd_client.aio.Server:
    return ipcd_client.aio.server(handlers=(Echo(),), node=world.socket("a"), **arguments)


async def echo(channel: grpc.aio.Channel, service: str = SERVICE, **arguments: Any) -> bytes:
    call = channel.unary_unary(f"/{service}/UnaryEcho")
    answer: bytes = await call(b"x", **({"timeout": LONG} | arguments))
    return answer


async def catalog(world: Processes) -> list[node_pb2.Server]:
    """Whom the daemon knows."""
    async with ipcd_client.aio.channel("ipcd-node:", node=world.socket("a")) as channel:
        reply = await node_pb2_grpc.NodeStub(channel).ListCatalog(node_pb2.ListCatalogRequest())
    return list(reply.servers)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - it is another process that changes
        await asyncio.sleep(0.02)


def test_what_the_node_knows(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = serving(world, name="mine")
        assert server.registered_as is None
        await server.start()
        (known,) = await catalog(world)
        assert server.registered_as == known
        assert (known.name, list(known.services)) == ("mine", [SERVICE])
        async with ipcd_client.aio.channel("ipcd:///mine", node=world.socket("a")) as channel:
            assert await echo(channel) == b"x"
            server.add_generic_rpc_handlers((Named("late.v1.Late"),))
            await until(lambda: served(world, "late.v1.Late"))
            assert await echo(channel, "late.v1.Late") == b"x"
        await server.stop(1)
        await until(lambda: gone(world))

    run(main)


class Named(Echo):
    """The same under another name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def service_name(self) -> str:
        return self.name

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != f"/{self.name}/UnaryEcho":
            return None
        return grpc.unary_unary_rpc_method_handler(self.UnaryEcho)


async def served(world: Processes, service: str) -> bool:
    return any(service in server.services for server in await catalog(world))


async def gone(world: Processes) -> bool:
    return not await catalog(world)


def test_it_describes_itself(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = serving(world)
        node_pb2_grpc.add_NodeServicer_to_server(node_pb2_grpc.NodeServicer(), server)
        await server.start()
        # Only the node can lead there: the service is one that every server has.
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            route = await channel.route("ipcd.v1.Node")
            data, _ = await route.connection.call(
                "/ipcd.v1.Introspection/Describe", wire_pb2.DescribeRequest(service="ipcd.v1.Node").SerializeToString()
            )
            assert len(wire_pb2.DescribeReply.FromString(data).files) > 0
        await server.stop(None)

    run(main)


def test_no_daemon(world: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPCD_ATTACH_TIMEOUT", "0.2")

    async def main() -> None:
        server = serving(world)
        with pytest.raises(NoDaemon, match="start one with: ipcd run"):
            await server.start()
        assert await server.wait_for_termination() is False
        with pytest.raises(grpc.aio.UsageError, match="not in ready state"):
            await server.start()

    run(main)


def test_a_refused_registration(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = ipcd_client.aio.server(handlers=(Named("ipcd.v1.Forged"),), node=world.socket("a"), name="x" * 5000)
        with pytest.raises(IpcdError) as caught:
            await server.start()
        assert not isinstance(caught.value, NoDaemon)
        assert await gone(world)

    run(main)


def test_it_waits_for_the_daemon(world: Processes) -> None:
    async def main() -> None:
        server = serving(world)
        starting = asyncio.ensure_future(server.start())
        await asyncio.to_thread(world.daemon, "a")
        await starting
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            assert await echo(channel) == b"x"
        await server.stop(None)

    run(main)


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
def test_a_start_that_is_given_up(world: Processes, how: str) -> None:
    async def main() -> None:
        server = serving(world)
        starting = asyncio.ensure_future(server.start())
        assert await server.wait_for_termination(0.1) is True
        if how == "cancelled":
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        else:
            await server.stop(None)
            with pytest.raises(NoDaemon):
                await starting
        assert await server.wait_for_termination() is False

    run(main)


def test_it_comes_back_to_a_new_daemon(world: Processes) -> None:
    daemon = world.daemon("a")

    async def main() -> None:
        server = serving(world)
        await server.start()
        async with ipcd_client.aio.channel(node=world.socket("a")) as before:
            assert await echo(before) == b"x"
            await asyncio.to_thread(world.kill, daemon)
            assert await echo(before) == b"x", "the daemon has no part in it"
            await asyncio.to_thread(world.daemon, "a")
            async with ipcd_client.aio.channel(node=world.socket("a")) as after:
                assert await echo(after, wait_for_ready=True) == b"x"
        await server.stop(None)
        await until(lambda: gone(world))

    run(main)


def test_a_stop_while_the_daemon_is_away(world: Processes) -> None:
    daemon = world.daemon("a")

    async def main() -> None:
        server = serving(world)
        await server.start()
        await asyncio.to_thread(world.kill, daemon)
        assert await server.wait_for_termination(0.1) is True
        await server.stop(None)

    run(main)


def test_a_loop_that_ends_with_its_server_running(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = serving(world)
        await server.start()
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            assert await echo(channel) == b"x"

    asyncio.run(main(), debug=True)
    asyncio.run(until(lambda: gone(world)), debug=True)


def test_a_dropped_server_is_not_found(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = serving(world)
        await server.start()
        del server
        gc.collect()
        await until(lambda: gone(world))

    run(main)


def test_ports_serve_real_grpc(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = serving(world)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.raises(ValueError, match="before the server starts"):
            server.add_insecure_port("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as outside:
            assert await echo(outside) == b"x"
            waiting = asyncio.ensure_future(outside.unary_unary(f"/{SERVICE}/UnaryHold")(b"2", timeout=LONG))
            async with ipcd_client.aio.channel(node=world.socket("a")) as inside:
                assert await inside.unary_unary(f"/{SERVICE}/UnaryHold")(b"2", timeout=LONG) == b"2"
            assert await waiting == b"2"
            await server.stop(1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echo(outside)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    run(main)


def test_two_servers_on_one_loop(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        servers = [serving(world, name=name) for name in ("one", "two")]
        for server in servers:
            await server.start()
        for name in ("one", "two"):
            async with ipcd_client.aio.channel(f"ipcd:///{name}", node=world.socket("a")) as channel:
                assert await echo(channel) == b"x"
        await servers[0].stop(None)
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            assert await echo(channel) == b"x"
        await servers[1].stop(None)

    run(main)
