"""From a service's name to a connection with a server that provides it."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from time import monotonic
from typing import NamedTuple

import grpc

from ipcd_client.errors import ChannelClosed, IpcdError, NoDaemon, ProtocolError, WireError
from ipcd_client.frame.settings import Settings
from ipcd_client.node import attach, introduction
from ipcd_client.node.introduction import ATTEMPTS, DIAL_TIMEOUT, RETRY_FIRST, RETRY_MOST
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import HELLO_TIMEOUT, Connection
from ipcd_client.wire import tcp


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
        self.path = path
        self.target = target
        self.transport = introduction.checked(transport)
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
        return introduction.wanted(service, self.target, self.transport)

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
        pause = RETRY_FIRST
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
            pause = min(pause * (1 + random.random()), RETRY_MOST)
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
        peer = introduction.name_of(choice.server)
        wire = introduction.granted(fds, peer, choice.transport) if fds else self._dialed(reply, peer)
        connection = Connection(wire, self.settings, dialer=True)
        connection.handshake(limit)
        refusal = introduction.why_not(wire, self.transport)
        if refusal is not None:
            connection.close("shared memory was asked for")
            raise refusal
        return Route(connection, choice.server, wire.kind, introduction.reason(wire, choice))

    @staticmethod
    def _dialed(reply: node_pb2.OpenReply, peer: str) -> tcp.TcpWire:
        first = introduction.dialing(reply)
        sock = tcp.connect(reply.address, DIAL_TIMEOUT)
        try:
            sock.sendall(first)
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


class NodeRouter(Router):
    """Routes everything to the daemon's own API."""

    def connect(self, service: str, deadline: float | None, wait: bool) -> Route:  # noqa: ARG002
        pause = RETRY_FIRST
        while True:
            try:
                limit = HELLO_TIMEOUT if deadline is None else min(HELLO_TIMEOUT, max(0.0, deadline - monotonic()))
                connection = self._attachment.connection(limit)
                return Route(connection, node_pb2.Server(name="ipcd"), "unix", "the node's own API")
            except IpcdError:
                if not wait or self._closed or (deadline is not None and monotonic() + pause >= deadline):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, RETRY_MOST)


_live: weakref.WeakSet[Router] = weakref.WeakSet()


def _after_fork() -> None:
    for router in _live:
        router.after_fork()


os.register_at_fork(after_in_child=_after_fork)
