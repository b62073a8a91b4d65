"""How much a peer can make the daemon keep. Past a limit: RESOURCE_EXHAUSTED for that peer, naming the limit."""

from __future__ import annotations

from typing import Final

import grpc
from ipcd_client.errors import IpcdError

# Processes attached to the socket.
ATTACHED: Final = 4096
# TCP connections that have not shown their preamble or hello.
HALF_OPEN: Final = 128
# Servers of this node, and copied from one other node.
SERVERS: Final = 4096
# Servers that one attached connection registers.
SERVERS_PER_CONNECTION: Final = 64
# Services of one server.
SERVICES: Final = 256
# Characters of a node's, server's or service's name.
NAME: Final = 255
# Calls of Open that wait for a server, in all and of one connection.
WAITING: Final = 4096
WAITING_PER_CONNECTION: Final = 64
# Introductions over TCP whose callers have not come yet: in all, and of one node or local process.
TOKENS: Final = 4096
TOKENS_PER_OWNER: Final = 512
# Calls that one connection has open at the daemon.
STREAMS: Final = 512
# Other nodes, and addresses at which they are looked for.
NODES: Final = 1024
ADDRESSES: Final = 4096
# Nodes that were refused, as they are shown.
REFUSALS: Final = 16
# Bytes that wait for a connection's peer to read.
BACKLOG: Final = 16 << 20
# Of the gateway: calls under way, connections with servers, bytes of a message, and bytes of messages that wait in it.
GATEWAY_CALLS: Final = 4096
GATEWAY_SERVERS: Final = 1024
GATEWAY_MESSAGE: Final = 4 << 20
GATEWAY_BYTES: Final = 256 << 20

# Seconds.
HELLO: Final = 5.0
PREAMBLE: Final = 5.0
REGISTER: Final = 10.0
TOKEN: Final = 10.0
INTRODUCE: Final = 5.0
# A daemon that took the place of another waits for servers to register again, before it says that there are none.
SETTLE: Final = 2.0


class LimitReached(IpcdError):
    """The text names the limit."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class InvalidRequest(IpcdError):
    """A request that makes no sense, in words."""

    code = grpc.StatusCode.INVALID_ARGUMENT


def check(name: str, count: int, limit: int) -> None:
    """Raises `LimitReached` where `count` is over `limit`."""
    if count > limit:
        raise LimitReached(f"the limit of {limit} {name} is reached")


def check_name(what: str, name: str, *, empty: bool = False) -> str:
    """The name, if it is fit to be one.

    Raises:
        LimitReached: too long.
        InvalidRequest: empty, or with characters that would garble logs and addresses.
    """
    if len(name) > NAME:
        raise LimitReached(f"the limit of {NAME} characters for the name of a {what} is reached: {len(name)}")
    if not name and not empty:
        raise InvalidRequest(f"the name of a {what} is empty")
    if not name.isprintable() or "/" in name or " " in name:
        raise InvalidRequest(f"the name of a {what} has a space, a slash or an unprintable character: {name!r}")
    return name
