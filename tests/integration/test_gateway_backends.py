"""The gateway's connections with servers, at a node in this process and with bounds of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.daemons import LONG, run
from integration.gateway import serving_at
from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd import limits
from ipcd.backends import Backend, Backends
from ipcd.config import load
from ipcd.log import Log
from ipcd.node import Node

SERVICE = "conformance.v1.Echo"
METHOD = f"/{SERVICE}/UnaryEcho"
# Who calls.
US = f"spiffe://default/node/a/uid/{os.getuid()}"


class World:
    """A node with servers."""

    def __init__(self, node: Node, stack: contextlib.ExitStack) -> None:
        self.node = node
        self._stack = stack

    async def server(self, name: str) -> None:
        """Another one, in a process."""
        await asyncio.to_thread(self._stack.enter_context, serving_at(self.node.config.socket, name))

    def backends(self, limit: int) -> Backends:
        """Of a gateway of the node."""
        return Backends(self.node._broker, Log("a"), limit)


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    node = Node(load({"node": "a", "socket": str(folder / "ipcd.sock"), "discovery": False}, environ={}))
    await node.start()
    with contextlib.ExitStack() as stack:
        try:
            yield World(node, stack)
        finally:
            await node.stop()


async def connected(backends: Backends, name: str) -> Backend:
    """The connection with the server of that name."""
    target = node_pb2.ResolveRequest(service=SERVICE, server=name)
    return await backends.connected(target, backends.choose(target, US, set()), US)


def test_one_connection_for_all_calls(socket_dir: Path) -> None:
    async def main() -> None:
        async with world(socket_dir) as here:
            await here.server("first")
            backends = here.backends(1)
            one, other = await asyncio.gather(connected(backends, "first"), connected(backends, ""))
            assert one is other is await connected(backends, "first")
            assert (await one.connection.call(METHOD, b"x", timeout=LONG))[0] == b"x"
            one.connection.retire()
            again = await connected(backends, "first")
            assert again is not one
            assert again.server == one.server
            await backends.close()

    run(main)


def test_a_bound_on_connections(socket_dir: Path) -> None:
    """An idle one makes room; one with calls does not."""

    async def main() -> None:
        async with world(socket_dir) as here:
            await here.server("first")
            await here.server("second")
            backends = here.backends(1)
            first = await connected(backends, "first")
            second = await connected(backends, "second")
            assert "not used any more" in str(await first.connection.closed())
            second.calls = 1
            with pytest.raises(limits.LimitReached, match="the limit of 1 connections of the gateway with servers"):
                await connected(backends, "first")
            assert second.connection.usable
            await backends.close()

    run(main)


def test_the_server_with_the_fewest_calls_is_chosen(socket_dir: Path) -> None:
    async def main() -> None:
        async with world(socket_dir) as here:
            await here.server("first")
            await here.server("second")
            backends = here.backends(2)
            (await connected(backends, "first")).calls = 2
            (await connected(backends, "second")).calls = 1
            anybody = node_pb2.ResolveRequest(service=SERVICE)
            second = backends.choose(anybody, US, set()).server
            assert second.name == "second"
            assert backends.choose(anybody, US, {second.id}).server.name == "first"
            assert (
                backends.choose(node_pb2.ResolveRequest(service=SERVICE, server="second"), US, {second.id}).server
                == second
            )
            await backends.close()

    run(main)
