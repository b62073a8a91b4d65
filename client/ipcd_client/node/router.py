"""From a service's name to a connection with a server that provides it."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import weakref
from time import monotonic
from typing import Final, NamedTuple

import grpc

from ipcd_client.errors import ChannelClosed, ConfigError, IpcdError, NoDaemon, ProtocolError, WireError
from ipcd_client.frame import preamble
from ipcd_client.frame.settings import Settings
from ipcd_client.node import attach
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import HELLO_TIMEOUT, Connection
from ipcd_client.wire import shm, tcp, unix
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
# Seconds for a TCP connection to another node, and between tries of `wait_for_ready`.
DIAL_TIMEOUT: Final = 5.0
_RETRY_FIRST: Final = 0.02
_RETRY_MOST: Final = 1.0


class Route(NamedTuple):
    """A connection with a server, and how it came about."""

    connection: Connection
    server: node_pb2.Server
    transport: str
    reason: str


class Router:
    """The routes of one channel. Threads may use it at the same time.

    `wire_settings`: limits for the connections with servers.
    """

    def __init__(self, path: str, target: Target, transport: str, wire_settings: Settings) -> None:
        if transport not in TRANSPORTS:
            raise ConfigError(f"transport {transport!r}: must be one of {', '.join(TRANSPORTS)}")
        self.path = path
        self.target = target
        self.transport = transport
        self.routes: dict[str, Route] = {}
        self.settings = wire_settings
        self._attachment = attach.shared(path)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._closed = False
        _live.add(self)

    def attachment(self) -> attach.Attachment:
        """This process's connection with the daemon."""
        return self._attachment

    def request(self, service: str) -> node_pb2.ResolveRequest:
        """What is asked of the daemon for a service."""
        return node_pb2.ResolveRequest(
            service=service,
            node=self.target.node,
            server=self.target.server,
            transport=TRANSPORTS[self.transport],
        )

    def connect(self, service: str, deadline: float | None, wait: bool) -> Route:
        """A route to a server of the service: the one in use, or a new one. With `wait`, waits for a server, and for
        the daemon, until the deadline (of time.monotonic()).

        Raises:
            IpcdError: there is none; `code` and text are the call's.
        """
        with self._lock:
            lock = self._locks.setdefault(service, threading.Lock())
        left = -1.0 if deadline is None else max(0.0, deadline - monotonic())
        if not lock.acquire(timeout=left):
            raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, f"no connection for {service} before the deadline")
        try:
            route = self.routes.get(service)
            if route is not None and route.connection.usable:
                return route
            route = self._introduced(service, deadline, wait)
            self._keep(service, route)
            return route
        finally:
            lock.release()

    def _keep(self, service: str, route: Route) -> None:
        with self._lock:
            closed = self._closed
            previous = None if closed else self.routes.get(service)
            if not closed:
                self.routes[service] = route
        if previous is not None:
            previous.connection.retire()
        if closed:
            route.connection.close()
            raise ChannelClosed(status.CHANNEL_CLOSED)

    def _introduced(self, service: str, deadline: float | None, wait: bool) -> Route:
        pause = _RETRY_FIRST
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._introduce(service, deadline, wait)
            except (NoDaemon, WireError, ProtocolError) as error:
                # The daemon is away, or the server introduced died before its hello.
                if not wait and (isinstance(error, NoDaemon) or attempt >= ATTEMPTS):
                    raise
            except CallFailed as error:
                if not wait or error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
            if self._closed:
                raise ChannelClosed(status.CHANNEL_CLOSED)
            # Jitter: the callers of a server that died come back one by one.
            pause = min(pause * (1 + random.random()), _RETRY_MOST)
            if deadline is not None and monotonic() + pause >= deadline:
                time.sleep(max(0.0, deadline - monotonic()))
                raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, f"no server for {service} before the deadline")
            time.sleep(pause)

    def _introduce(self, service: str, deadline: float | None, wait: bool) -> Route:
        limit = HELLO_TIMEOUT if deadline is None else min(HELLO_TIMEOUT, max(0.0, deadline - monotonic()))
        daemon = self._attachment.connection(limit)
        request = node_pb2.OpenRequest(target=self.request(service), wait=wait)
        until = (
            deadline
            if wait or (deadline is not None and deadline < monotonic() + DIAL_TIMEOUT)
            else monotonic() + DIAL_TIMEOUT
        )
        reply, fds = attach.call(daemon, "Open", request, node_pb2.OpenReply, until)
        choice = reply.choice
        process = choice.server.process
        name = f" {choice.server.name!r}" if choice.server.name else ""
        peer = f"server{name} (pid {process.pid} on node {process.node})"
        wire = self._dialed(reply, peer) if not fds else _granted(fds, peer, choice.transport)
        connection = Connection(wire, self.settings, dialer=True)
        connection.handshake(limit)
        if wire.why_not and self.transport == "shm":
            connection.close("shared memory was asked for")
            raise WireError(f"shm was asked for, and is not to be had: {wire.why_not} (auto would take a UNIX socket)")
        reason = f"{wire.kind}: {wire.why_not}" if wire.why_not else choice.reason
        return Route(connection, choice.server, wire.kind, reason)

    def _dialed(self, reply: node_pb2.OpenReply, peer: str) -> tcp.TcpWire:
        if reply.choice.transport != node_pb2.TRANSPORT_TCP or len(reply.token) != preamble.TOKEN_SIZE:
            raise ProtocolError("missing-fds", "the daemon's introduction carries neither a connection nor an address")
        sock = tcp.connect(reply.address, DIAL_TIMEOUT)
        try:
            sock.sendall(preamble.pack(preamble.DATA, reply.token))
        except OSError as error:
            sock.close()
            raise WireError(f"{peer} at {reply.address}: {error.strerror or error}") from error
        return tcp.TcpWire(sock, peer=peer)

    def after_fork(self) -> None:
        """In a child: locks may be held by threads that are not here; connections say themselves that they are dead."""
        self._lock = threading.Lock()
        self._locks = {}

    def close(self) -> None:
        """Ends all routes. Calls under way fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            routes = list(self.routes.values())
            self.routes.clear()
        for route in routes:
            route.connection.close(ChannelClosed(status.CHANNEL_CLOSED))
        self._attachment.release()


def _granted(fds: list[Fd], peer: str, transport: node_pb2.Transport) -> Wire:
    """The wire on a granted socket, of which there must be one."""
    for fd in fds[1:]:
        fd.close()
    sock = socket.socket(fileno=fds[0].detach())
    if transport == node_pb2.TRANSPORT_SHM:
        return shm.ShmWire(sock, peer=peer)
    return unix.UnixWire(sock, peer=peer)


class NodeRouter(Router):
    """Routes everything to the daemon's own API."""

    def connect(self, service: str, deadline: float | None, wait: bool) -> Route:  # noqa: ARG002
        pause = _RETRY_FIRST
        while True:
            try:
                limit = HELLO_TIMEOUT if deadline is None else min(HELLO_TIMEOUT, max(0.0, deadline - monotonic()))
                connection = self._attachment.connection(limit)
                return Route(connection, node_pb2.Server(name="ipcd"), "unix", "the node's own API")
            except IpcdError:
                if not wait or self._closed or (deadline is not None and monotonic() + pause >= deadline):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, _RETRY_MOST)


_live: weakref.WeakSet[Router] = weakref.WeakSet()


def _after_fork() -> None:
    for router in _live:
        router.after_fork()


os.register_at_fork(after_in_child=_after_fork)
