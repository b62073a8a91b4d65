"""What is asked of the daemon for a server, and what becomes of its answer. Both routers do this."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

import grpc

from ipcd_client.errors import ConfigError, IpcdError, NoDaemon, NotAllowed, ProtocolError, WireClosed, WireError
from ipcd_client.frame import preamble
from ipcd_client.node.over_tcp import wire_on
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import shm, unix
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

TRANSPORTS: Final = {
    "auto": node_pb2.TRANSPORT_UNSPECIFIED,
    "shm": node_pb2.TRANSPORT_SHM,
    "unix": node_pb2.TRANSPORT_UNIX,
    "tcp": node_pb2.TRANSPORT_TCP,
}
TRANSPORT_NAMES: Final = {number: name for name, number in TRANSPORTS.items()}

# Introductions tried for one call, when the server introduced is gone before it has said hello.
ATTEMPTS: Final = 3
# Seconds for an answer of the daemon's, for a TCP connection to another node before the nodes are asked to make it
# (within these, TCP once sends again what was lost), and between tries of `wait_for_ready`.
DIAL_TIMEOUT: Final = 5.0
DIRECT_TIMEOUT: Final = 2.0
RETRY_FIRST: Final = 0.02
RETRY_MOST: Final = 1.0


def checked(transport: str) -> str:
    """A transport's name.

    Raises:
        ConfigError: there is no such transport.
    """
    if transport not in TRANSPORTS:
        raise ConfigError(f"transport {transport!r}: must be one of {', '.join(TRANSPORTS)}")
    return transport


def wanted(service: str, target: Target, transport: str) -> node_pb2.ResolveRequest:
    """What is asked of the daemon for a service."""
    return node_pb2.ResolveRequest(
        service=service, node=target.node, server=target.server, transport=TRANSPORTS[transport]
    )


def name_of(server: node_pb2.Server) -> str:
    """A server in words."""
    name = f" {server.name!r}" if server.name else ""
    return f"server{name} (pid {server.process.pid} on node {server.process.node})"


def dialing(reply: node_pb2.OpenReply) -> bytes:
    """What is said first to the address that an introduction without a connection names.

    Raises:
        ProtocolError: it names none.
    """
    if reply.choice.transport != node_pb2.TRANSPORT_TCP or len(reply.token) != preamble.TOKEN_SIZE:
        raise ProtocolError("missing-fds", "the daemon's introduction carries neither a connection nor an address")
    return preamble.pack(preamble.DATA, reply.token)


class Dials:
    """The dials of one attempt at an introduction. Those that fail are told with `request`, so that the nodes make the
    connection in another way, if they have one."""

    def __init__(self, request: node_pb2.OpenRequest) -> None:
        self._request = request
        self._left = ATTEMPTS
        self._error: WireError | None = None

    def begin(self, reply: node_pb2.OpenReply) -> bytes:
        """What is said first to the address that an introduction without a connection names.

        Raises:
            ProtocolError: it names none.
            WireError: the caller could not dial that node, and the nodes have no other way.
        """
        if self._error is not None and reply.choice.server.process.node == self._request.undialed.node:
            raise self._error
        return dialing(reply)

    def failed(self, reply: node_pb2.OpenReply, error: WireError) -> None:
        """Has the next request tell it.

        Raises:
            WireError: too many have failed.
        """
        # A dial that took too long is no deadline of the call.
        self._error = WireError(str(error))
        self._left -= 1
        if not self._left:
            raise self._error from error
        self._request.undialed.node = reply.choice.server.process.node
        self._request.undialed.reason = str(error)
        self._request.undialed.server_id = reply.choice.server.id


def granted(fds: Sequence[Fd], peer: str, reply: node_pb2.OpenReply) -> Wire:
    """The wire on a granted socket, of which there must be one. Descriptors beyond it are closed.

    Raises:
        ConfigError: the node's certificates cannot be used.
    """
    transport = reply.choice.transport
    for fd in fds[1:]:
        fd.close()
    sock = socket.socket(fileno=fds[0].detach())
    if transport == node_pb2.TRANSPORT_SHM:
        return shm.ShmWire(sock, peer=peer)
    if transport == node_pb2.TRANSPORT_TCP:
        return wire_on(sock, peer, reply, server_side=False)
    return unix.UnixWire(sock, peer=peer)


def why_not(wire: Wire, transport: str) -> WireError | None:
    """Why the transport that was asked for is not to be had; None if it is."""
    if wire.why_not and transport == "shm":
        return WireError(f"shm was asked for, and is not to be had: {wire.why_not} (auto would take a UNIX socket)")
    return None


def reason(wire: Wire, choice: node_pb2.Candidate) -> str:
    """Why it became this transport, in words."""
    return f"{wire.kind}: {wire.why_not}" if wire.why_not else choice.reason


def check_answered(error: CallFailed, usable: bool) -> None:
    """After a failed question to the daemon: its answer stands, unless the connection is not `usable` any more.

    Raises:
        WireClosed: the daemon has gone meanwhile, so that its successor may be asked.
    """
    if not usable and error.code is grpc.StatusCode.UNAVAILABLE:
        raise WireClosed(error.details) from error


def not_attached(path: str, error: WireError) -> IpcdError:
    """What a connection to the daemon's socket file that failed means."""
    cause = error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if number in {errno.EACCES, errno.EPERM}:
        # Another user's daemon may well run there: to start one would not help.
        return NotAllowed(f"uid {os.geteuid()} may not open {path}: it belongs to another user")
    why = {errno.ENOENT: "no such file", errno.ECONNREFUSED: "nobody listens on it"}.get(number or 0, str(error))
    return NoDaemon(path, why)
