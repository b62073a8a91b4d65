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
# Named things (queues, locks, ...) of this node, or copied from one other node; of this node's, of one owner, who may
# be another node's process. With
# names as long as they may be they have room beside CATALOG in the one message that tells of all.
NAMES: Final = 4096
NAMES_EACH: Final[Each] = {"process": 1024, "uid": 3072, "node": 2048}
# Of semaphores: calls of Hold, calls that wait, those that wait at one of them, steps of one operation, and bytes of
# the words with which a caller says which of its threads it is.
SEMAPHORE_HOLDS: Final = 16384
SEMAPHORE_HOLDS_EACH: Final[Each] = {"process": 2048, "uid": 12288, "node": 4096}
SEMAPHORE_WAITS: Final = 8192
SEMAPHORE_WAITS_EACH: Final[Each] = {"process": 2048, "uid": 6144, "node": 4096}
SEMAPHORE_WAITS_HERE: Final = 4096
SEMAPHORE_STEPS: Final = 64
SEMAPHORE_WORDS: Final = 64
# Those who hold or wait at one that are shown, and the circles.
SEMAPHORE_SHOWN: Final = 64
# Sessions with locks, and ranges that they hold: in all, of one owner, of one lock and of one session. Two ranges that
# touch and are held in the same way are one.
LOCK_SESSIONS: Final = 8192
LOCK_SESSIONS_EACH: Final[Each] = {"process": 2048, "uid": 6144, "node": 4096}
LOCK_RANGES: Final = 65536
LOCK_RANGES_EACH: Final[Each] = {"process": 8192, "uid": 49152, "node": 32768}
LOCK_RANGES_PER_LOCK: Final = 2048
LOCK_RANGES_PER_SESSION: Final = 1024
# Acquisitions that wait, likewise.
LOCK_WAITS: Final = 8192
LOCK_WAITS_EACH: Final[Each] = {"process": 2048, "uid": 6144, "node": 4096}
LOCK_WAITS_PER_LOCK: Final = 1024
LOCK_WAITS_PER_SESSION: Final = 16
# Answers that a session does not read, and then it is not read either; bytes of a party's name; and of what a look at
# all locks shows at a time: locks, and those that hold or wait of each.
LOCK_UNREAD: Final = 64
LOCK_PARTY: Final = 64
LOCK_SHOWN: Final = 128
LOCK_SHOWN_EACH: Final = 64
# Of circles of waits for locks of several homes: sessions elsewhere that one acquisition names, and bytes of such a
# name; chases that are remembered; of one, the waits at one node to which it comes, what it asks of a node at one time,
# and nodes over which it goes; the waits that are looked at and the sessions elsewhere that are asked about, for one
# owner with whose waits they begin, and for one node that asks (a second, at once); and questions that are under way to
# one node.
LOCK_ELSEWHERE: Final = 64
LOCK_NAME: Final = 16
LOCK_CHASES: Final = 256
LOCK_CHASE_STEPS: Final = 1024
LOCK_CHASE_HOPS: Final = 16
LOCK_CHASE_BEGUN: Final = {"process": (2000.0, 8000.0), "uid": (5000.0, 20000.0), "node": (5000.0, 20000.0)}
LOCK_CHASE_TAKEN: Final = {"node": (5000.0, 20000.0)}
LOCK_CHASE_SENT: Final = 16
# Of queues: bytes of one message's data; messages of one request or reply, and bytes of a reply; messages of one queue.
QUEUE_MESSAGE: Final = 3 << 20
QUEUE_BATCH: Final = 1024
QUEUE_REPLY: Final = 3 << 20
QUEUE_MESSAGES: Final = 1_000_000
# What all queues of a node hold, in bytes, with so many for each message beside its data; of that, what one owner has
# sent. Senders that wait hold theirs, too.
QUEUE_OVERHEAD: Final = 512
QUEUE_BYTES: Final = 512 << 20
QUEUE_BYTES_EACH: Final[Each] = {"uid": 384 << 20, "node": 384 << 20}
# Calls that wait at queues, watches for arrivals included.
QUEUE_WAITING: Final = 4096
QUEUE_WAITING_EACH: Final[Each] = {"process": 512, "uid": 3072, "node": 3072}
# Seconds: the longest lease, and the longest delay.
QUEUE_LEASE: Final = 7 * 86400.0
QUEUE_DELAY: Final = 366 * 86400.0
# Of pipes: ends of one that are open (each is a process that the others have a connection with), and of all, of one
# owner; those without names; seconds for which an end of such a one may stay unopened; and calls for which the daemon
# carries the bytes, as of the gateway's clients. Of a reader's address, in bytes.
PIPE_ENDS_EACH: Final = 256
PIPE_ENDS: Final = 8192
PIPE_ENDS_OF: Final[Each] = {"process": 1024, "uid": 6144, "node": 2048}
PIPES_UNNAMED: Final = 4096
PIPES_UNNAMED_OF: Final[Each] = {"process": 512, "uid": 3072, "node": 1024}
PIPE_ADDRESS: Final[dict[str, int]] = {"node": 128, "server": 255, "key": 64}
PIPE_UNOPENED: Final = 60.0
PIPE_CARRIED: Final = 256
PIPE_CARRIED_OF: Final[Each] = {"process": 128, "uid": 192, "node": 192}
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
# Calls that one connection has open at the daemon, and all of one owner. Those of a link are bounded by the link: a
# node's are what its processes ask of the named things that are here.
STREAMS: Final = 512
CALLS: Final = 16384
CALLS_EACH: Final[Each] = {"process": 2048, "uid": 12288, "node": 8192, "host": 8192}
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

# Values: bytes of one, and of all that this node keeps, also of those being written; those that have memory of their
# own, each of which is a descriptor; calls that wait for a change; holds that values are tied to; and names of which it
# is remembered which version they had when they ended. Whoever wrote a value last is its owner.
VALUE: Final = 512 << 20
VALUE_BYTES: Final = 1 << 30
VALUE_BYTES_EACH: Final[Each] = {"process": 512 << 20, "uid": 768 << 20, "node": 512 << 20}
VALUE_MEMORIES: Final = 256
VALUE_MEMORIES_EACH: Final[Each] = {"process": 128, "uid": 192, "node": 128}
# Large values that are sent piece by piece just now, each of which has a piece in memory; and of what these were when
# they began, and are not any more: how many, and their bytes. The oldest makes room, and who reads it is told so.
VALUE_READS: Final = 256
VALUE_READS_EACH: Final[Each] = {"process": 64, "uid": 192, "node": 128}
VALUE_OLD: Final = 64
VALUE_OLD_BYTES: Final = 512 << 20
VALUE_WAITS: Final = 8192
VALUE_WAITS_EACH: Final[Each] = {"process": 2048, "uid": 6144, "node": 2048}
VALUE_HOLDS: Final = 4096
VALUE_HOLDS_EACH: Final[Each] = {"process": 1024, "uid": 3072, "node": 1024}
VALUE_ENDED: Final = 4096
# Copies of other nodes' values, and their bytes; what nobody has asked for longest makes room.
VALUE_COPIES: Final = 64
VALUE_COPIES_BYTES: Final = 1 << 30
# Topics: subscriptions; messages and bytes that may wait for one subscription, as it is and at most; bytes of a
# message, and of those that wait, each counted once, for its publisher; messages of one subject that are kept, bytes of
# those that are kept, for the publisher's user or node, and subjects of which there are any.
TOPIC_SUBSCRIPTIONS: Final = 16384
TOPIC_SUBSCRIPTIONS_EACH: Final[Each] = {"process": 1024, "uid": 12288, "node": 1024}
TOPIC_WAITING: Final = 1024
TOPIC_WAITING_MOST: Final = 65536
TOPIC_WAITING_BYTES: Final = 16 << 20
TOPIC_MESSAGE: Final = 2 << 20
TOPIC_BYTES: Final = 256 << 20
TOPIC_BYTES_EACH: Final[Each] = {"process": 64 << 20, "uid": 192 << 20, "node": 64 << 20}
TOPIC_KEPT: Final = 1024
TOPIC_KEPT_BYTES: Final = 128 << 20
TOPIC_KEPT_BYTES_EACH: Final[Each] = {"uid": 96 << 20, "node": 32 << 20}
TOPIC_KEPT_SUBJECTS: Final = 4096
# Of what is kept, messages that one who asks for it is told. Of what other nodes keep, bytes that are under way to
# those who asked, and that one node may answer with; each message that is kept here counts for so many bytes of these.
TOPIC_REPLAY: Final = 65536
TOPIC_REPLAY_COST: Final = 128
TOPIC_REPLAY_BYTES: Final = 128 << 20
TOPIC_REPLAY_BYTES_EACH: Final[Each] = {"process": 64 << 20, "uid": 96 << 20, "node": 32 << 20}
TOPIC_REPLAY_NODE: Final = 32 << 20
# What a message counts for beside its data, in bytes.
TOPIC_COST: Final = 256
# Memory that local subscribers of a message map: from how many bytes and subscribers on it pays, how many messages and
# bytes of them there are at one time, for how many seconds at most, and to how many of them a subscription may have
# references that it has not used.
TOPIC_MEMORY: Final = 256 << 10
TOPIC_MEMORY_READERS: Final = 2
TOPIC_MEMORIES: Final = 128
TOPIC_MEMORIES_BYTES: Final = 128 << 20
TOPIC_MEMORY_LATE: Final = 30.0
TOPIC_REFERENCES: Final = 2
# What nodes want of each other's topics: patterns for one node, and bytes of the identities for whom; links of one,
# which has a new one each time that it is started, and of all its users, any of whom it may say is its daemon's;
# nodes whose wants are remembered while they are away, and for how many seconds.
TOPIC_WANTS: Final = 16384
TOPIC_WANTS_IDENTITIES: Final = 8 << 20
TOPIC_SESSIONS: Final = 4
TOPIC_SESSIONS_NODE: Final = 16
TOPIC_AWAY: Final = 256
TOPIC_REMEMBERED: Final = 60.0
# Messages and bytes that wait to be sent to a node.
TOPIC_LINK_WAITING: Final = 16384
TOPIC_LINK_BYTES: Final = 32 << 20

# Seconds.
HELLO: Final = 5.0
PREAMBLE: Final = 5.0
REGISTER: Final = 10.0
TOKEN: Final = 10.0
INTRODUCE: Final = 5.0
CLAIM: Final = 1.0
# For another node to take a part of a chase; from the beginning of a wait to its first chase, and at most from one to
# the next, each of which comes after up to twice as long as the one before.
LOCK_CHASE: Final = 1.0
LOCK_CHASE_FIRST: Final = 0.1
LOCK_CHASE_LAST: Final = 5.0
# From one piece of a value that is written, read, or copied from its home, to the next; and for its home to say what it
# is.
VALUE_PIECE: Final = 30.0
VALUE_ASK: Final = 10.0
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
