"""Whom the broker deals with, and what is kept of each: processes, servers, callers with a token, the other nodes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import NodeError
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, signal_pb2
from ipcd_client.wire.fds import Fd

from ipcd.quota import Guard
from ipcd.state import quota
from ipcd.state.reach import Reach


class Links(Protocol):
    """The other nodes, as the broker needs them."""

    def names(self) -> Sequence[str]:
        """Nodes there is a link with."""

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        """Asks a node for an introduction: its answer, and the HOST:PORT at which its token is good.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:
        """Asks a node to dial this one.

        Raises:
            IpcdError: it cannot be asked, or could not.
        """

    async def claim(self, node: str, request: peer_pb2.ClaimRequest) -> str:
        """Asks a node whether we may make a named thing: the node that has it or makes it, or "".

        Raises:
            IpcdError: it cannot be asked.
        """

    async def raise_flag(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
        """Asks a node to raise a flag at those who listen there.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """

    async def chase(self, node: str, request: peer_pb2.ChaseRequest) -> None:
        """Asks a node who waits there for locks of the parties of some sessions.

        Raises:
            IpcdError: it cannot be asked.
        """

    def unlinked(self) -> Sequence[str]:
        """Nodes that are known, and there is no link with."""

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Tells every node of a change of our own servers."""


class NoLinks:
    """A node alone. (Links)"""

    def names(self) -> Sequence[str]:
        return ()

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        raise NodeError(f"there is no link with node {node}, asked for {request.target.service}")

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:  # noqa: ARG002
        raise NodeError(f"there is no link with node {node}")

    async def claim(self, node: str, request: peer_pb2.ClaimRequest) -> str:  # noqa: ARG002
        raise NodeError(f"there is no link with node {node}")

    async def raise_flag(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:  # noqa: ARG002
        raise NodeError(f"there is no link with node {node}")

    async def chase(self, node: str, request: peer_pb2.ChaseRequest) -> None:  # noqa: ARG002
        raise NodeError(f"there is no link with node {node}")

    def unlinked(self) -> Sequence[str]:
        return ()

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        pass


def daemon(node: str) -> node_pb2.Process:
    """This process, which is the daemon of that node: whom others may believe for whom it calls."""
    return node_pb2.Process(node=node, pid=os.getpid(), uid=os.getuid(), gid=os.getgid(), daemon=True)


@dataclass(eq=False, slots=True)
class Attached:
    """A process on the other end of a connection to our socket."""

    process: node_pb2.Process
    # Connections granted to it, by the server's id: what a caller that is gone had is over.
    granted: Counter[str] = field(default_factory=Counter)
    registered: int = 0
    waiting: int = 0
    watches: int = 0
    # Services that it was introduced for: of whose servers it wants to hear.
    opened: set[str] = field(default_factory=set)
    reach: Reach = field(default_factory=Reach)
    guard: Guard | None = None  # of its connection
    called_for: str = ""  # of the daemon's gateway: the identity of its clients
    owner: quota.Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = quota.local(self.process.uid, self.process.pid, self.process.pidfd_id)

    def charge(self, cost: int) -> None:
        """What it asked for costs more than a frame."""
        if self.guard is not None:
            self.guard.charge(cost)

    def check_unread(self) -> None:
        """It is to get a descriptor.

        Raises:
            LimitReached: it does not read those that it has got.
        """
        if self.guard is not None:
            self.guard.check_unread()


@dataclass(eq=False, slots=True)
class Registration:
    """A server of this node, for as long as its call of Register lasts."""

    server: node_pb2.Server
    attached: Attached
    context: ServicerContext
    size: int = 0  # of its description, in bytes

    def check_unread(self) -> None:
        """(Taker) Its process is to get a descriptor."""
        self.attached.check_unread()

    def deliver(self, grant: node_pb2.Grant, fd: Fd) -> bool:
        """Hands the server its end of a connection. False, with the descriptor closed, if it is gone or does not
        read."""
        return self.context.write_now(node_pb2.RegisterReply(grant=grant), [fd])


class Taker(Protocol):
    """A server of this node to which callers can be handed: a process's (Registration), or the daemon's own, of the
    primitives."""

    server: node_pb2.Server

    def check_unread(self) -> None:
        """It is to get a descriptor.

        Raises:
            LimitReached: it does not read those that it has got.
        """

    def deliver(self, grant: node_pb2.Grant, fd: Fd) -> bool:
        """Hands the server its end of a connection, which it owns from then on. False, with the descriptor closed, if
        it takes none."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a token stands for: who may come, and to whom."""

    server_id: str
    service: str
    caller: node_pb2.Process
    called_for: str = ""  # an identity; empty where it calls for itself


def copied(process: node_pb2.Process) -> node_pb2.Process:
    """A process as a message of its own: as a part of another it would keep the memory of all that a node has sent with
    it, and so would what is not known of it."""
    return node_pb2.Process(
        node=process.node,
        pid=process.pid,
        uid=process.uid,
        gid=process.gid,
        pidfd_id=process.pidfd_id,
        daemon=process.daemon,
    )
