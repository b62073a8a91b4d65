"""The daemon, as the commands need it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote

from google.protobuf.message import Message

import ipcd_client
from ipcd_client.node import attach
from ipcd_client.node.introduction import TRANSPORTS
from ipcd_client.node.paths import default_socket
from ipcd_client.node.target import NODE_API
from ipcd_client.pb.ipcd.v1 import node_pb2

if TYPE_CHECKING:
    from ipcd_client.cli.session import Pins
    from ipcd_client.facade.channel import Channel

R = TypeVar("R", bound=Message)

# Bytes. A person who calls by hand wants to see the answer, however large it is.
_MAX_MESSAGE: Final = 256 << 20


class Node:
    """One daemon; `timeout` in seconds for each answer. A context manager.

    Raises:
        NoDaemon: nothing answers at the socket.
        IpcdError: what answers does not speak, or refuses.
    """

    def __init__(self, socket: str | None, timeout: float) -> None:
        self.path = socket or default_socket()
        self._timeout = timeout
        self._channels: list[Channel] = []
        # The one that the channels of this process share.
        self._attachment = attach.shared(self.path)
        try:
            self._attachment.connection(timeout)
        except BaseException:
            self._attachment.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for channel in self._channels:
            channel.close()
        self._attachment.release()

    def nodes(self) -> list[node_pb2.NodeInfo]:
        """All nodes that this one knows, itself first, then by name."""
        found = self._call("ListNodes", node_pb2.ListNodesRequest(), node_pb2.ListNodesReply).nodes
        return sorted(found, key=lambda info: (info.state != node_pb2.NodeInfo.STATE_SELF, info.node))

    def status(self) -> node_pb2.StatusReply:
        """Who the daemon is."""
        return self._call("Status", node_pb2.StatusRequest(), node_pb2.StatusReply)

    def servers(self, service: str = "") -> list[node_pb2.Server]:
        """All servers on all nodes, or those of one service."""
        request = node_pb2.ListCatalogRequest(service=service)
        return list(self._call("ListCatalog", request, node_pb2.ListCatalogReply).servers)

    def services(self) -> list[str]:
        """The names of all services, sorted."""
        return sorted({service for server in self.servers() for service in server.services})

    def resolve(self, service: str, pins: Pins, caller: str = "") -> list[node_pb2.Candidate]:
        """Who could be taken, the choice first. `caller`: an identity, if it is asked for somebody else.

        Raises:
            CallFailed: nobody; the text says why.
        """
        request = node_pb2.ResolveRequest(
            service=service, node=pins.node, server=pins.server, transport=TRANSPORTS[pins.transport], caller=caller
        )
        return list(self._call("Resolve", request, node_pb2.ResolveReply).candidates)

    def ping(self) -> float:
        """Seconds until the daemon's library answered."""
        return self._attachment.connection(self._timeout).ping(self._timeout)

    def channel(self, pins: Pins) -> Channel:
        """For calls of services. Closed with this object."""
        server = f"/{quote(pins.server, safe='')}" if pins.server else ""
        return self._channel(f"ipcd:{'//' if pins.node else ''}{quote(pins.node, safe='')}{server}", pins.transport)

    def api(self) -> Channel:
        """For calls of the daemon itself."""
        return self._channel(NODE_API, "auto")

    def _channel(self, target: str, transport: str) -> Channel:
        options = [("grpc.max_receive_message_length", _MAX_MESSAGE)]
        channel = ipcd_client.channel(target, node=self.path, transport=transport, options=options)
        self._channels.append(channel)
        return channel

    def _call(self, method: str, request: Message, reply: type[R]) -> R:
        connection = self._attachment.connection(self._timeout)
        return attach.call(connection, method, request, reply, monotonic() + self._timeout)[0]
