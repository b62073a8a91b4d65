"""What `direct` is for threads, for an event loop: the same nodes, whose servers and channels may be of either kind.

>>> node = DirectNode("memory")
>>> channel = channel(node)
"""

from __future__ import annotations

from typing import Any

from ipcd_client.aio.channel import Channel
from ipcd_client.loop.connection import Connection
from ipcd_client.node.loop_router import LoopRouter, Route
from ipcd_client.testing.direct import JOINED, DirectNode


def channel(node: DirectNode, target: str = "ipcd:", **arguments: Any) -> Channel:
    """As `ipcd_client.aio.channel`."""

    class DirectLoopRouter(LoopRouter):
        async def _introduce(self, service: str, *, wait: bool) -> Route:  # noqa: ARG002
            server, wire = node.join(service, self.target)
            connection = Connection(wire, self.settings, dialer=True)
            await connection.handshake()
            return Route(connection, server, node.transport, JOINED)

    defaults: dict[str, Any] = {"options": None, "interceptors": None}
    return Channel(target, node="direct", transport="auto", router=DirectLoopRouter, **(defaults | arguments))
