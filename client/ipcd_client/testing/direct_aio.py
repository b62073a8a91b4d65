"""What `direct` is for threads, for an event loop: the same nodes, whose servers and channels may be of either kind.

>>> node = DirectNode("memory")
>>> server, channel = server(node), channel(node)
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

from ipcd_client.aio.channel import Channel
from ipcd_client.aio.server import Server
from ipcd_client.loop.connection import Connection
from ipcd_client.node.loop_router import LoopRouter, Route
from ipcd_client.node.registering import OnGrant
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.testing.direct import JOINED, DirectNode, Registered
from ipcd_client.wire.base import Wire


def channel(node: DirectNode, target: str = "ipcd:", **arguments: Any) -> Channel:
    """As `ipcd_client.aio.channel`."""

    class DirectLoopRouter(LoopRouter):
        async def _introduce(self, service: str, *, wait: bool, server_id: str = "") -> Route:  # noqa: ARG002
            server, wire = node.join(service, self.target)
            connection = Connection(wire, self.settings, dialer=True)
            await connection.handshake()
            return Route(connection, server, node.transport, JOINED)

    defaults: dict[str, Any] = {"options": None, "interceptors": None}
    return Channel(target, node="direct", transport="auto", router=DirectLoopRouter, **(defaults | arguments))


def server(node: DirectNode, pool: Executor | None = None, **arguments: Any) -> Server:
    """As `ipcd_client.aio.server`."""

    def registrar(path: str, request: node_pb2.RegisterRequest, on_grant: OnGrant) -> LoopRegistered:  # noqa: ARG001
        return LoopRegistered(node, request, on_grant)

    defaults: dict[str, Any] = dict.fromkeys(("name", "handlers", "interceptors", "options", "maximum_concurrent_rpcs"))
    return Server(pool, node="direct", registrar=registrar, **(defaults | arguments))


class LoopRegistered:
    """A server on a loop, as the node knows it. Callers may come from any thread."""

    def __init__(self, node: DirectNode, request: node_pb2.RegisterRequest, on_grant: OnGrant) -> None:
        loop = asyncio.get_running_loop()

        def granted(grant: node_pb2.Grant, wire: Wire) -> None:
            loop.call_soon_threadsafe(on_grant, grant, wire)

        self._registered = Registered(node, request, granted)
        self.server = self._registered.server

    async def start(self) -> None:
        """It may be found."""
        self._registered.start()

    def update(self, services: list[str]) -> None:
        """It serves these now."""
        self._registered.update(services)

    def close(self) -> None:
        """It may not be found any more."""
        self._registered.close()
