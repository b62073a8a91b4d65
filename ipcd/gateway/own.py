"""The services that the gateway answers itself: in this process, yet over a connection, so that their calls take the
same way as all others, and a method is written once for our own wires and for gRPC."""

from __future__ import annotations

import socket
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import WireClosed
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.unix import UnixWire

from ipcd import limits
from ipcd.backends import SETTINGS, Backend

_SERVING: Final = replace(SETTINGS, accept_calls=True, max_streams=limits.GATEWAY_CALLS)


class OwnServices:
    """`services`: full names of what `server` serves. `process`: this one."""

    def __init__(self, server: Server, services: AbstractSet[str], process: node_pb2.Process) -> None:
        self.services = services
        self._server = server
        self._about = node_pb2.Server(name="ipcd", process=process)
        self._ends: list[Connection] = []
        self._backend: Backend | None = None

    async def connected(self) -> Backend:
        """The connection with them.

        Raises:
            IpcdError: there is none.
        """
        if self._backend is None or not self._backend.connection.usable:
            # One that ended was too far behind in what it had to read.
            self._ends = [end for end in self._ends if end.error is None]
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            backend = Backend(self._end(ours, SETTINGS, dialer=True), self._about)
            self._server.serve(self._end(theirs, _SERVING, dialer=False), None)
            await backend.connection.handshake()
            self._backend = backend
        return self._backend

    def _end(self, sock: socket.socket, settings: Settings, *, dialer: bool) -> Connection:
        connection = Connection(UnixWire(sock, peer=f"node {self._about.process.node}"), settings, dialer=dialer)
        self._ends.append(connection)
        return connection

    async def close(self, why: str) -> None:
        """Ends their calls, which then fail with `why`."""
        for end in self._ends:
            end.fail(WireClosed(why))
        await self._server.stop()
