"""A server's registration at its node: attached for ever, and again after the daemon was away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ipcd_client.errors import IpcdError, NodeError
from ipcd_client.node import attach
from ipcd_client.node.registering import (
    REGISTER_TIMEOUT,
    RETRY_MOST,
    OnGrant,
    Receiver,
    Returning,
    Starting,
    attach_timeout,
    wire_to,
)
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.sync.workers import room
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")


class Registered(Protocol):
    """What a server needs of its registration."""

    server: node_pb2.Server | None

    def start(self) -> None:
        """Registers, or raises why not."""

    def update(self, services: list[str]) -> None:
        """Registers what is served now instead."""

    def close(self) -> None:
        """Ends the registration."""


# (socket path, what is registered, reactor, on_grant)
Registrar = Callable[[str, node_pb2.RegisterRequest, Reactor, OnGrant], Registered]


class Registration:
    """One server's. `on_grant` is called with each introduction and the wire to the caller, which it owns from then
    on; by the thread that reads for the server, so it must be quick."""

    def __init__(
        self,
        path: str,
        request: node_pb2.RegisterRequest,
        reactor: Reactor,
        on_grant: OnGrant,
    ) -> None:
        self.path = path
        self.server: node_pb2.Server | None = None
        self._request = request
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
        starting = Starting(attach_timeout(), monotonic())
        while True:
            try:
                self._attach()
                return
            except IpcdError as error:
                if self._closing.wait(starting.failed(error, monotonic())):
                    raise

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
            receiver = Receiver(self, connection, call, threading.Event())
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
            self._reactor.add(connection, self)

    def _lost(self, error: IpcdError) -> None:
        with self._lock:
            if self._closing.is_set() or self._connection is None:
                return
            self._connection = None
        log.info("%s; registering again", error)
        self.expire()

    def expire(self) -> None:
        """Begins to attach again, or sees to it that this is tried later. (Expiring)"""
        if self._closing.is_set():
            return
        try:
            if not room():
                raise RuntimeError("no memory")
            threading.Thread(target=self._attach_again, name="ipcd-reattach", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            log.warning("cannot register again yet: %s", error)
            self._reactor.expect(self, monotonic() + RETRY_MOST)
            self._reactor.wake()

    def _attach_again(self) -> None:
        returning = Returning()
        while not self._closing.wait(returning.pause()):
            try:
                self._attach()
                return
            except IpcdError as error:
                returning.failed(error)

    def granted(self, grant: node_pb2.Grant, fd: Fd) -> None:
        """The node introduces a caller, whose connection is `fd`."""
        wire = wire_to(grant, fd)
        if wire is not None:
            self._on_grant(grant, wire)

    def confirmed(self, server: node_pb2.Server) -> None:
        """The node has taken the registration in."""
        self.server = server
