"""A server's registration at its node: attached for ever, and again after the daemon was away."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from ipcd_client.errors import ConfigError, IpcdError, NodeError
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.wire import shm, tcp, unix
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")

# Seconds.
ATTACH_TIMEOUT: Final = 10.0
WARN_AFTER: Final = 1.0
REGISTER_TIMEOUT: Final = 5.0
_RETRY_FIRST: Final = 0.02
_RETRY_MOST: Final = 1.0


def attach_timeout() -> float:
    """Seconds that a starting server tries to attach: $IPCD_ATTACH_TIMEOUT, default 10.

    Raises:
        ConfigError: it is not a number.
    """
    raw = os.environ.get("IPCD_ATTACH_TIMEOUT")
    if raw is None:
        return ATTACH_TIMEOUT
    try:
        return float(raw)
    except ValueError:
        raise ConfigError(f"IPCD_ATTACH_TIMEOUT={raw!r}: not a number of seconds") from None


OnGrant = Callable[[node_pb2.Grant, Wire], None]


class Registered(Protocol):
    """What a server needs of its registration."""

    server: node_pb2.Server | None

    def start(self) -> None:
        """Registers, or raises why not."""

    def update(self, services: list[str]) -> None:
        """Registers what is served now instead."""

    def close(self) -> None:
        """Ends the registration."""


# (socket path, server's name, services, reactor, on_grant)
Registrar = Callable[[str, str, list[str], Reactor, OnGrant], Registered]


class Registration:
    """One server's. `on_grant` is called with each introduction and the wire to the caller, which it owns from then
    on; by the thread that reads for the server, so it must be quick."""

    def __init__(
        self,
        path: str,
        name: str,
        services: list[str],
        reactor: Reactor,
        on_grant: OnGrant,
    ) -> None:
        self.path = path
        self.server: node_pb2.Server | None = None
        self._request = node_pb2.RegisterRequest(name=name, services=services)
        self._reactor = reactor
        self._on_grant = on_grant
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connection: Connection | None = None
        self._call: ClientCall | None = None

    def start(self) -> None:
        """Attaches and registers. Tries for `attach_timeout()` seconds while there is no daemon.

        Raises:
            IpcdError: why it could not.
        """
        begin = monotonic()
        limit = attach_timeout()
        pause, warned = _RETRY_FIRST, False
        while True:
            try:
                self._attach()
                return
            except CallFailed as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                failure: IpcdError = error
            except IpcdError as error:
                failure = error
            passed = monotonic() - begin
            if passed + pause >= limit or self._closing.is_set():
                raise failure
            if passed >= WARN_AFTER and not warned:
                warned = True
                log.warning("%s; trying for %.0f s more", failure, limit - passed)
            self._closing.wait(pause)
            pause = min(pause * 2, _RETRY_MOST, max(0.01, limit - passed))

    def update(self, services: list[str]) -> None:
        """Registers what is served now instead."""
        with self._lock:
            del self._request.services[:]
            self._request.services.extend(services)
            connection, call, data = self._connection, self._call, self._request.SerializeToString()
        if connection is not None and call is not None:
            connection.send(call, data, monotonic() + REGISTER_TIMEOUT)

    def close(self) -> None:
        """Ends the registration: the node introduces nobody more."""
        self._closing.set()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("the server has stopped")

    def _attach(self) -> None:
        connection = attach.connect(self.path, host=self._reactor)
        try:
            call = ClientCall(attach.API + "Register", attach.SETTINGS.max_message)
            receiver = _Receiver(self, connection, call)
            call.user = receiver
            with self._lock:
                data = self._request.SerializeToString()
            connection.start(call, message=data)
            deadline = monotonic() + REGISTER_TIMEOUT
            if not connection.wait(call.stream, lambda: receiver.registered.is_set() or call.done, deadline):
                raise NodeError(f"{connection.wire.peer()} did not confirm the registration")
            if call.code is not None:
                raise CallFailed(call.code, call.details or "the registration was ended")
        except BaseException as error:
            connection.fail(error if isinstance(error, IpcdError) else NodeError("the registration was interrupted"))
            raise
        with self._lock:
            self._connection, self._call = connection, call
        connection.on_closed = self._lost
        if connection.error is not None:
            self._lost(connection.error)
        elif self._closing.is_set():
            connection.close("the server has stopped")
        else:
            self._reactor.add(connection)

    def _lost(self, error: IpcdError) -> None:
        with self._lock:
            if self._closing.is_set() or self._connection is None:
                return
            self._connection = None
        log.info("%s; registering again", error)
        threading.Thread(target=self._attach_again, name="ipcd-reattach", daemon=True).start()

    def _attach_again(self) -> None:
        pause = _RETRY_FIRST
        while not self._closing.wait(pause * (0.5 + random.random())):
            try:
                self._attach()
                return
            except IpcdError as error:
                log.debug("not yet: %s", error)
            pause = min(pause * 2, _RETRY_MOST)

    def granted(self, grant: node_pb2.Grant, fd: Fd) -> None:
        """The node introduces a caller, whose connection is `fd`."""
        sock = socket.socket(fileno=fd.detach())
        name = f"caller (pid {grant.caller.pid} on node {grant.caller.node})"
        if grant.transport == node_pb2.TRANSPORT_TCP:
            try:
                tcp.tune(sock)
            except OSError as error:
                # It was reset before it got here.
                sock.close()
                log.debug("%s: %s", name, error)
                return
            self._on_grant(grant, tcp.TcpWire(sock, peer=name))
        elif grant.transport == node_pb2.TRANSPORT_SHM:
            self._on_grant(grant, shm.ShmWire(sock, peer=name))
        else:
            self._on_grant(grant, unix.UnixWire(sock, peer=name))

    def confirmed(self, server: node_pb2.Server) -> None:
        """The node has taken the registration in."""
        self.server = server


class _Receiver:
    """Takes in what the node pushes."""

    def __init__(self, registration: Registration, connection: Connection, call: ClientCall) -> None:
        self.registered = threading.Event()
        self._registration = registration
        self._connection = connection
        self._call = call

    def progressed(self) -> None:
        call = self._call
        if call.code is not None and self.registered.is_set():
            # The node ended the call but not the connection: attach anew.
            self._connection.fail(NodeError(f"the node ended the registration: {call.details or call.code.name}"))
            return
        while call.messages:
            data = bytes(self._connection.take(call))
            try:
                reply = node_pb2.RegisterReply.FromString(data)
            except DecodeError as error:
                self._connection.fail(NodeError(f"{self._connection.wire.peer()} sent no RegisterReply: {error}"))
                return
            if reply.HasField("registered"):
                self._registration.confirmed(reply.registered.server)
                self.registered.set()
            elif reply.HasField("grant"):
                if call.fds:
                    self._registration.granted(reply.grant, call.fds.popleft())
                else:
                    log.warning("the node granted a caller without a connection")
