"""From a service's name to a connection with a server that provides it."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple

import grpc

from ipcd_client.errors import ChannelClosed, IpcdError, NoDaemon, ProtocolError, WireError
from ipcd_client.frame.settings import Settings
from ipcd_client.node import attach, introduction
from ipcd_client.node.introduction import ATTEMPTS, DIAL_TIMEOUT, DIRECT_TIMEOUT, RETRY_FIRST, RETRY_MOST
from ipcd_client.node.over_tcp import wire_on
from ipcd_client.node.pool import REFRESH, SPREAD, Pool
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import HELLO_TIMEOUT, Connection
from ipcd_client.wire import tcp
from ipcd_client.wire.base import Wire

log = logging.getLogger("ipcd_client")

# Seconds between looks for news of the node, while there are calls.
LOOK: Final = 0.05


class Route(NamedTuple):
    """A connection with a server, and how it came about."""

    connection: Connection
    server: node_pb2.Server
    transport: str
    reason: str
    caller: str = ""  # the caller's node


class Router:
    """The routes of one channel, a pool for each service. Threads may use it at the same time.

    `wire_settings`: limits for the connections with servers. `spread`: servers of one service that share the calls.
    """

    def __init__(
        self, path: str, target: Target, transport: str, wire_settings: Settings, spread: int = SPREAD
    ) -> None:
        self.path = path
        self.target = target
        self.transport = introduction.checked(transport)
        self.pools: dict[str, Pool[Route]] = {}
        self.settings = wire_settings
        self._spread = spread
        self._attachment = attach.shared(path)
        # The attachment's version for which the pools are right; -1 where one is known not to be.
        self._seen = 0
        self._look_at = 0.0
        self._retry_at = 0.0
        # What could not be dialed in a call that had no time left to say so.
        self._undialed: node_pb2.Undialed | None = None
        self._refreshing: threading.Thread | None = None
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

    def usable(self, service: str) -> Connection | None:
        """Whose the next call of the service is; None if there is no connection with a server yet, or any more."""
        route = self._next(service)
        return route.connection if route is not None else None

    def _next(self, service: str) -> Route | None:
        pool = self.pools.get(service)
        if pool is None:
            return None
        for _ in range(len(pool)):
            route = pool.only or pool.pick()
            if route is None:
                return None
            if self.refresh(route.connection):
                return route
        return None

    def refresh(self, connection: Connection) -> bool:
        """Whether the connection takes calls, after a look at it and at what the node has to tell."""
        self._look()
        connection.refresh()
        return connection.usable

    def connect(self, service: str, deadline: float | None, wait: bool) -> Route:
        """A route to a server of the service: one in use, or a new one. With `wait`, waits for a server, and for
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
            known = self._next(service)
            if known is not None:
                return known
            route = self._introduced(service, deadline, wait)
            self._keep(service, route)
            return route
        finally:
            lock.release()

    def _keep(self, service: str, route: Route) -> None:
        useless: Sequence[Route] = ()
        with self._lock:
            closed = self._closed
            if not closed:
                pool = self.pools.get(service)
                if pool is None:
                    pool = self.pools[service] = Pool()
                useless = pool.put(route, route.caller)
                route.connection.look_at = self._look_at
        for old in useless:
            old.connection.retire()
        if closed:
            route.connection.close()
            raise ChannelClosed(status.CHANNEL_CLOSED)

    # -- the other servers ------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether the node has news, asked now and then while there are calls: nobody waits for them."""
        now = monotonic()
        if now < self._look_at:
            return
        look_at = self._look_at = now + LOOK
        for pool in list(self.pools.values()):
            for route in pool:
                route.connection.look_at = look_at
        if self._attachment.version() != self._seen and now >= self._retry_at:
            with self._lock:
                if self._closed or (self._refreshing is not None and self._refreshing.is_alive()):
                    return
                # A thread of its own: a daemon that hangs delays no call that has its connection.
                refreshing = threading.Thread(target=self._refresh, name="ipcd-routes", daemon=True)
                # A signal's handler may raise while it starts: who closes then has nothing to wait for.
                refreshing.start()
                self._refreshing = refreshing

    def _refresh(self) -> None:
        version = self._attachment.version()
        try:
            for service in list(self.pools):
                self._spread_out(service)
        except IpcdError as error:
            self._retry_at = monotonic() + RETRY_MOST
            log.debug("how the servers stand is not known: %s", error)
        else:
            self._seen = version

    def _spread_out(self, service: str) -> None:
        """Connects with those servers of the service that are to share its calls, and gives up those that are not.

        Raises:
            IpcdError: the daemon cannot be asked.
        """
        daemon = self._attachment.connection(REFRESH)
        try:
            reply, _ = attach.call(
                daemon, "Resolve", self.request(service), node_pb2.ResolveReply, monotonic() + REFRESH
            )
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                return  # nobody serves it, as far as the node knows: those that still do are kept
            raise
        pool = self.pools.get(service)
        if pool is None:
            return  # the channel was closed meanwhile
        with self._lock:
            missing = pool.missing(reply.candidates, reply.node, self._spread)
        for server_id in missing:
            try:
                self._keep(service, self._introduce(service, monotonic() + REFRESH, False, server_id))
            except ChannelClosed:
                return
            except (CallFailed, WireError, ProtocolError) as error:
                log.debug("server %s gets no calls of %s: %s", server_id, service, error)
        with self._lock:
            others = pool.surplus(reply.candidates)
            pool.drop(others)
        for route in others:
            route.connection.retire()

    # -- introductions ----------------------------------------------------------------------------

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

    def _introduce(self, service: str, deadline: float | None, wait: bool, server_id: str = "") -> Route:
        limit = HELLO_TIMEOUT if deadline is None else min(HELLO_TIMEOUT, max(0.0, deadline - monotonic()))
        daemon = self._attachment.connection(limit)
        request = node_pb2.OpenRequest(target=self.request(service), wait=wait, undialed=self._undialed)
        request.target.server_id = server_id
        reply, wire = self._opened(daemon, request, deadline)
        choice = reply.choice
        connection = Connection(wire, self.settings, dialer=True)
        connection.handshake(limit)
        refusal = introduction.why_not(wire, self.transport)
        if refusal is not None:
            connection.close("shared memory was asked for")
            raise refusal
        if reply.preferred > 1 and not server_id:
            self._seen = -1
        return Route(connection, choice.server, wire.kind, introduction.reason(wire, choice), reply.node)

    def _opened(
        self, daemon: Connection, request: node_pb2.OpenRequest, deadline: float | None
    ) -> tuple[node_pb2.OpenReply, Wire]:
        dials = introduction.Dials(request)
        while True:
            until = (
                deadline
                if request.wait or (deadline is not None and deadline < monotonic() + DIAL_TIMEOUT)
                else monotonic() + DIAL_TIMEOUT
            )
            try:
                reply, fds = attach.call(daemon, "Open", request, node_pb2.OpenReply, until)
            except CallFailed as error:
                introduction.check_answered(error, daemon.usable)
                raise
            self._undialed = None
            peer = introduction.name_of(reply.choice.server)
            if fds:
                return reply, introduction.granted(fds, peer, reply)
            first = dials.begin(reply)
            left = DIRECT_TIMEOUT if deadline is None else min(DIRECT_TIMEOUT, max(0.001, deadline - monotonic()))
            try:
                return reply, self._dialed(reply, first, left, peer)
            except WireError as error:
                dials.failed(reply, error)
                self._undialed = request.undialed

    @staticmethod
    def _dialed(reply: node_pb2.OpenReply, first: bytes, timeout: float, peer: str) -> tcp.TcpWire:
        sock = tcp.connect(reply.address, timeout)
        try:
            sock.sendall(first)
        except OSError as error:
            sock.close()
            raise WireError(f"{peer} at {reply.address}: {error.strerror or error}") from error
        return wire_on(sock, peer, reply, server_side=False)

    def after_fork(self) -> None:
        """In a child: locks may be held by threads that are not here; connections say themselves that they are dead."""
        self._lock = threading.Lock()
        self._locks = {}
        self._refreshing = None

    @property
    def locked(self) -> bool:
        """Some thread, perhaps this one, is in the middle of it or of a connection. For destructors."""
        return (
            self._lock.locked()
            or self._attachment.locked
            or any(route.connection.locked for pool in list(self.pools.values()) for route in pool)
        )

    def close(self) -> None:
        """Ends all routes. Calls under way fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            routes = [route for pool in self.pools.values() for route in pool]
            self.pools.clear()
            refreshing = self._refreshing
        for route in routes:
            route.connection.close(ChannelClosed(status.CHANNEL_CLOSED))
        self._attachment.release()
        if refreshing is not None and refreshing is not threading.current_thread():
            refreshing.join(REFRESH)


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
