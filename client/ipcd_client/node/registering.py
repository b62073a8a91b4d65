"""How a server is registered at its node, whatever drives it: how long it tries, and what the node tells it."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable
from typing import Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from ipcd_client.errors import ConfigError, IpcdError, NodeError
from ipcd_client.frame.codec import Payload
from ipcd_client.node.over_tcp import wire_on
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import shm, tcp, unix
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")

# Seconds.
ATTACH_TIMEOUT: Final = 10.0
WARN_AFTER: Final = 1.0
REGISTER_TIMEOUT: Final = 5.0
RETRY_FIRST: Final = 0.02
RETRY_MOST: Final = 1.0

OnGrant = Callable[[node_pb2.Grant, Wire], None]


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


class Starting:
    """The tries of a server that starts, since `now`, for at most `limit` seconds."""

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._begin = now
        self._pause = RETRY_FIRST
        self._warned = False

    def failed(self, error: IpcdError, now: float) -> float:
        """Seconds until the next try.

        Raises:
            IpcdError: the same error, where another try is of no use, or the time is over.
        """
        answered = isinstance(error, CallFailed) and error.code is not grpc.StatusCode.UNAVAILABLE
        if answered or error.code is grpc.StatusCode.PERMISSION_DENIED:
            raise error
        passed = now - self._begin
        pause = self._pause
        if passed + pause >= self._limit:
            raise error
        if passed >= WARN_AFTER and not self._warned:
            self._warned = True
            log.warning("%s; trying for %.0f s more", error, self._limit - passed)
        self._pause = min(pause * 2, RETRY_MOST, max(0.01, self._limit - passed))
        return pause


class Returning:
    """The tries of a server whose daemon went away. They go on for ever: also where it is not allowed to come back,
    since rules change."""

    def __init__(self) -> None:
        self._pause = RETRY_FIRST / 2
        self._warned = False

    def pause(self) -> float:
        """Seconds until the next try. With jitter: the daemon's servers come back one by one."""
        self._pause = min(self._pause * 2, RETRY_MOST)
        return self._pause * (0.5 + random.random())

    def failed(self, error: IpcdError) -> None:
        """A try has failed. That somebody has to do something about it is said once."""
        if error.code is grpc.StatusCode.PERMISSION_DENIED and not self._warned:
            self._warned = True
            log.warning("%s; trying again until that changes", error)
        else:
            log.debug("not yet: %s", error)


def wire_to(grant: node_pb2.Grant, fd: Fd) -> Wire | None:
    """The wire to the caller that the node introduces; None if the caller is gone already."""
    sock = socket.socket(fileno=fd.detach())
    name = f"caller (pid {grant.caller.pid} on node {grant.caller.node})"
    if grant.transport == node_pb2.TRANSPORT_SHM:
        return shm.ShmWire(sock, peer=name)
    if grant.transport != node_pb2.TRANSPORT_TCP:
        return unix.UnixWire(sock, peer=name)
    try:
        tcp.tune(sock)
    except OSError as error:
        # It was reset before it got here.
        sock.close()
        log.debug("%s: %s", name, error)
        return None
    try:
        return wire_on(sock, name, grant, server_side=True)
    except ConfigError as error:
        log.error("%s: %s", name, error)
        return None


class Event(Protocol):
    """threading's or asyncio's."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


class Connection(Protocol):
    """What is needed of a driver's connection here."""

    wire: Wire

    def take(self, call: ClientCall) -> Payload:
        """The next message of the call."""

    def fail(self, error: IpcdError) -> None:
        """Ends the connection."""


class Registering(Protocol):
    """Who is registered."""

    def confirmed(self, server: node_pb2.Server) -> None:
        """The node has taken the registration in."""

    def granted(self, grant: node_pb2.Grant, fd: Fd) -> None:
        """The node introduces a caller, whose connection is `fd`."""


class Receiver:
    """Takes in what the node pushes over `call`. (User) `registered` is set with its first word."""

    def __init__(self, registration: Registering, connection: Connection, call: ClientCall, registered: Event) -> None:
        self.registered = registered
        self._registration = registration
        self._connection = connection
        self._call = call

    def progressed(self) -> None:
        """An event of the call was taken in."""
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
