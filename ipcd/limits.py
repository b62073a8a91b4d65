"""How much a peer can make the daemon keep. Past a limit: RESOURCE_EXHAUSTED for that peer, naming the limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from ipcd_client.errors import IpcdError

# What one owner may hold, by its kind: a process, and its user ("uid"); a node, and its host. An attached connection
# belongs to the process and the user that the kernel names, a link to the node and the host at its other end, and what
# has not said who it is to its host.
Each = Mapping[str, int]

# Connections attached to the socket. A program has one for all its channels on a thread or a loop, and one for each
# server.
ATTACHED: Final = 4096
ATTACHED_EACH: Final[Each] = {"process": 512, "uid": 3072}
# Attaches a second, and at once.
ATTACHES: Final = {"process": (50.0, 600.0), "uid": (500.0, 4000.0)}
# Descriptors that the daemon keeps free: of its limit, up to so many. When no more are left, new connections of whoever
# has most are refused, and within the last half all are.
DESCRIPTORS_SPARE: Final = 64
# TCP connections that have not shown their preamble or hello. Where a host has all of its, one that has had so many
# seconds makes room for the next.
HALF_OPEN: Final = 512
HALF_OPEN_EACH: Final[Each] = {"host": 128}
HALF_OPEN_SPARED: Final = 0.5
# Connections over TCP a second, and at once.
DIALS: Final = {"host": (1000.0, 4000.0)}
# Servers of this node, or copied from one other node; of this node's, of one owner.
SERVERS: Final = 4096
SERVERS_EACH: Final[Each] = {"process": 512, "uid": 3072}
# Servers that one attached connection registers.
SERVERS_PER_CONNECTION: Final = 64
# Servers of which it is remembered when they had their last turn.
TURNS: Final = 65536
# Services of one server.
SERVICES: Final = 256
# Bytes of what one node tells of its servers, all in one message, and of that for one owner; and of all other nodes'.
CATALOG: Final = 7 << 20
CATALOG_EACH: Final[Each] = {"process": 2 << 20, "uid": 5 << 20}
COPIES: Final = 128 << 20
# Characters of a node's, server's or service's name.
NAME: Final = 255
# Named things (queues, locks, ...) of this node, or copied from one other node; of this node's, of one owner. With
# names as long as they may be they have room beside CATALOG in the one message that tells of all.
NAMES: Final = 4096
NAMES_EACH: Final[Each] = {"process": 1024, "uid": 3072}
# Of signals, in all and of one owner: those who listen at this node for a flag, and watches of processes' ends, each of
# which has a descriptor.
LISTENERS: Final = 4096
LISTENERS_EACH: Final[Each] = {"process": 512, "uid": 3072, "node": 2048}
EXITS: Final = 256
EXITS_EACH: Final[Each] = {"process": 64, "uid": 192, "node": 128}
# Calls of Open that wait for a server: in all, of one owner, and of one connection.
WAITING: Final = 4096
WAITING_EACH: Final[Each] = {"process": 512, "uid": 3072}
WAITING_PER_CONNECTION: Final = 64
# Services of whose servers one connection hears.
OPENED: Final = 4096
# Calls of WatchCatalog and WatchChanges.
WATCHES: Final = 8192
WATCHES_EACH: Final[Each] = {"process": 64, "uid": 6144}
WATCHES_PER_CONNECTION: Final = 16
# Introductions over TCP whose callers have not come yet: in all, of one node or local process, and of one local user.
TOKENS: Final = 4096
TOKENS_PER_OWNER: Final = 512
TOKENS_PER_USER: Final = 3072
# Calls that one connection has open at the daemon, and all of one owner.
STREAMS: Final = 512
CALLS: Final = 16384
CALLS_EACH: Final[Each] = {"process": 2048, "uid": 12288, "node": 256, "host": 8192}
# What a connection asks of the daemon, in frames taken in; long ones, and methods that cost more, count for several.
# Whoever is over the rate is not read until it has waited: nothing is refused. (a second, at once)
PACE: Final = {
    "process": (2000.0, 400.0),
    "uid": (8000.0, 16000.0),
    "node": (5000.0, 20000.0),
    "host": (20000.0, 80000.0),
}
# The same of connections for named things, where each frame is work that was asked for and little of it.
PACE_OF_THINGS: Final = {
    "process": (40000.0, 20000.0),
    "uid": (80000.0, 80000.0),
    "node": (80000.0, 80000.0),
}
COST_BYTES: Final = 2048  # so many count as one frame
COST_OPEN: Final = 3
COST_REGISTER: Final = 10
COST_WATCH: Final = 3
# Frames that are taken in of one connection before others get their turn.
TURN: Final = 4
# What local processes send, in bytes.
FRAME: Final = 64 << 10
MESSAGE: Final = 1 << 20
WINDOW: Final = 64 << 10
METADATA: Final = 8 << 10
# Other nodes, those that dialed from one host, and addresses at which they are looked for: in all, and with those that
# others tell.
NODES: Final = 1024
NODES_PER_HOST: Final = 256
ADDRESSES: Final = 4096
ADDRESSES_HEARD: Final = 3072
# Nodes that were refused, as they are shown.
REFUSALS: Final = 16
# Bytes that wait for a connection's peer to read, and those that came from it and wait to be used: of one connection,
# of all of one owner, and in all.
BACKLOG: Final = 16 << 20
QUEUED: Final = 512 << 20
QUEUED_EACH: Final[Each] = {"process": 32 << 20, "uid": 256 << 20, "node": 32 << 20, "host": 256 << 20}
# Descriptors that were handed over and are not read yet. The system counts them for the daemon's user, and refuses more
# than this has descriptors.
UNREAD: Final = 2048
UNREAD_EACH: Final[Each] = {"process": 1024, "uid": 1536}
# Lines of the log about one peer, of one event, and of one event about all peers. (a second, at once)
LINES: Final = (0.2, 40.0)
LINES_OF_ALL: Final = (5.0, 1000.0)
# Seconds after which it is said how many lines were left out.
LINES_TOLD: Final = 60.0
# Of the gateway: calls under way and those of one host, connections with servers, bytes of a message, and bytes of
# messages that wait in it.
GATEWAY_CALLS: Final = 4096
GATEWAY_CALLS_EACH: Final[Each] = {"host": 3072}
GATEWAY_SERVERS: Final = 1024
GATEWAY_MESSAGE: Final = 4 << 20
GATEWAY_BYTES: Final = 256 << 20
GATEWAY_BYTES_EACH: Final[Each] = {"host": 192 << 20}

# Seconds.
HELLO: Final = 5.0
PREAMBLE: Final = 5.0
REGISTER: Final = 10.0
TOKEN: Final = 10.0
INTRODUCE: Final = 5.0
CLAIM: Final = 1.0
# For another node to raise a flag; and, where nobody knows yet how a process has ended, for its parent to say so.
RAISE: Final = 1.0
EXIT_TOLD: Final = 0.04
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
