"""A server and its channels in one process, joined by a wire of the test's choice, with no daemon.

>>> node = DirectNode("memory")
>>> server, channel = node.server(), node.channel()
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

import grpc

from ipcd_client.facade.channel import Channel
from ipcd_client.facade.server import Server
from ipcd_client.node.introduction import TRANSPORTS
from ipcd_client.node.registering import OnGrant
from ipcd_client.node.router import Route, Router
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.wire import memory, shm, tcp, unix
from ipcd_client.wire.base import Wire

CALLER = "the caller"
SERVER = "the server"
JOINED = "joined in one process"


def memory_pair() -> tuple[Wire, Wire]:
    """Two ends in memory."""
    return memory.pair()


def unix_pair() -> tuple[Wire, Wire]:
    """Two ends of a socketpair."""
    one, other = socket.socketpair()
    return unix.UnixWire(one, peer=SERVER), unix.UnixWire(other, peer=CALLER)


def tcp_pair() -> tuple[Wire, Wire]:
    """Two ends of a loopback TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), 5)
        other, _ = listener.accept()
    for sock in (one, other):
        tcp.tune(sock)
    return tcp.TcpWire(one, peer=SERVER), tcp.TcpWire(other, peer=CALLER)


def shm_pair() -> tuple[Wire, Wire]:
    """Two ends in shared memory."""
    one, other = socket.socketpair()
    return shm.ShmWire(one, peer=SERVER), shm.ShmWire(other, peer=CALLER)


WIRES: dict[str, Callable[[], tuple[Wire, Wire]]] = {
    "memory": memory_pair,
    "shm": shm_pair,
    "unix": unix_pair,
    "tcp": tcp_pair,
}


class Registered:
    """A server, as this node knows it."""

    def __init__(self, node: DirectNode, request: node_pb2.RegisterRequest, on_grant: OnGrant) -> None:
        process = node_pb2.Process(node="direct", pid=os.getpid(), uid=os.getuid(), gid=os.getgid())
        self.server: node_pb2.Server | None = node_pb2.Server(
            id=str(next(node.ids)), name=request.name, services=request.services, process=process
        )
        self.on_grant = on_grant
        self._node = node

    def start(self) -> None:
        """It may be found."""
        self._node.servers.append(self)

    def update(self, services: list[str]) -> None:
        """It serves these now."""
        assert self.server is not None
        del self.server.services[:]
        self.server.services.extend(services)

    def close(self) -> None:
        """It may not be found any more."""
        if self in self._node.servers:
            self._node.servers.remove(self)


class DirectNode:
    """Joins by `wire`: memory, shm, unix or tcp. Takes servers in turn. They and the channels are the test's to
    close."""

    def __init__(self, wire: str) -> None:
        self.make = WIRES[wire]
        self.transport = wire
        self.servers: list[Registered] = []
        self.ids = itertools.count(1)
        self._turn = itertools.count()

        class DirectRouter(Router):
            def _introduce(
                router,  # noqa: N805
                service: str,
                deadline: float | None,  # noqa: ARG002
                wait: bool,  # noqa: ARG002
                server_id: str = "",  # noqa: ARG002
            ) -> Route:
                server, wire = self.join(service, router.target)
                connection = Connection(wire, router.settings, dialer=True)
                connection.handshake()
                return Route(connection, server, self.transport, JOINED)

        self._router = DirectRouter

    def server(self, executor: Any = None, **arguments: Any) -> Server:
        """As `ipcd_client.server`."""
        defaults: dict[str, Any] = dict.fromkeys(("name", "handlers", "interceptors", "options"))
        defaults["maximum_concurrent_rpcs"] = None

        def registrar(
            path: str,  # noqa: ARG001
            request: node_pb2.RegisterRequest,
            reactor: Reactor,  # noqa: ARG001
            on_grant: OnGrant,
        ) -> Registered:
            return Registered(self, request, on_grant)

        return Server(executor, node="direct", registrar=registrar, **(defaults | arguments))

    def channel(self, target: str = "ipcd:", **arguments: Any) -> Channel:
        """As `ipcd_client.channel`."""
        return Channel(target, node="direct", transport="auto", router=self._router, **({"options": None} | arguments))

    def join(self, service: str, target: Target) -> tuple[node_pb2.Server, Wire]:
        """A server of the service, and the caller's end of a wire whose other end it has.

        Raises:
            CallFailed: there is none.
        """
        fitting = [
            entry
            for entry in self.servers
            if entry.server is not None
            and service in entry.server.services
            and target.server in ("", entry.server.name)
        ]
        if not fitting:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"no server for {service} on nodes direct")
        chosen = fitting[next(self._turn) % len(fitting)]
        ours, theirs = self.make()
        number = TRANSPORTS.get(self.transport, node_pb2.TRANSPORT_UNSPECIFIED)
        assert chosen.server is not None
        caller = chosen.server.process
        grant = node_pb2.Grant(
            caller=caller,
            service=service,
            transport=number,
            identity=f"spiffe://default/node/{caller.node}/uid/{caller.uid}",
        )
        chosen.on_grant(grant, theirs)
        return chosen.server, ours
