"""From a service's name to a connection with a server that provides it, on an event loop."""

from __future__ import annotations

import asyncio
import random
from typing import Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from ipcd_client.errors import ChannelClosed, NoDaemon, NodeError, ProtocolError, WireClosed, WireError
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial
from ipcd_client.loop.connection import HELLO_TIMEOUT, Connection
from ipcd_client.node import attach, introduction, loop_attach
from ipcd_client.node.introduction import ATTEMPTS, DIAL_TIMEOUT, RETRY_FIRST, RETRY_MOST
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import tcp

_OPEN: Final = attach.API + "Open"


class Route(NamedTuple):
    """A connection with a server, and how it came about."""

    connection: Connection
    server: node_pb2.Server
    transport: str
    reason: str


class LoopRouter:
    """The routes of one channel, on the loop that first uses it. `settings`: limits for connections with servers."""

    def __init__(self, path: str, target: Target, transport: str, settings: Settings) -> None:
        self.path = path
        self.target = target
        self.transport = introduction.checked(transport)
        self.routes: dict[str, Route] = {}
        self.settings = settings
        self._attachment: loop_attach.Attachment | None = None
        self._making: dict[str, asyncio.Task[Route]] = {}
        self._closed = False

    def attachment(self) -> loop_attach.Attachment:
        """The loop's connection with the daemon."""
        if self._attachment is None:
            self._attachment = loop_attach.hold(self.path)
        return self._attachment

    async def connect(self, service: str, *, wait: bool) -> Route:
        """A route to a server of the service: the one in use, or a new one. With `wait`, waits for a server, and for
        the daemon.

        Raises:
            IpcdError: there is none; `code` and text are the call's.
        """
        while True:
            route = self.routes.get(service)
            if route is not None and route.connection.usable:
                return route
            if self._closed:
                raise ChannelClosed(status.CHANNEL_CLOSED)
            if wait:
                # Its caller alone waits that long, and for as long as it wants.
                return self._kept(service, await self._introduced(service, wait=True))
            making = self._making.get(service)
            if making is None:
                # A task of its own: those who wait may give up one by one.
                making = asyncio.get_running_loop().create_task(self._introduced(service, wait=False))
                self._making[service] = making
                making.add_done_callback(lambda task: self._made(service, task))
            return await asyncio.shield(making)

    def _made(self, service: str, task: asyncio.Task[Route]) -> None:
        self._making.pop(service, None)
        if not task.cancelled() and task.exception() is None:
            self._kept(service, task.result())

    def _kept(self, service: str, route: Route) -> Route:
        if self._closed:
            route.connection.fail(ChannelClosed(status.CHANNEL_CLOSED))
        else:
            before = self.routes.get(service)
            self.routes[service] = route
            if before is not None and before is not route:
                before.connection.retire()
        return route

    async def _introduced(self, service: str, *, wait: bool) -> Route:
        pause = RETRY_FIRST
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._introduce(service, wait=wait)
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
            await asyncio.sleep(pause)

    async def _introduce(self, service: str, *, wait: bool) -> Route:
        daemon = await self.attachment().connection()
        request = node_pb2.OpenRequest(
            target=introduction.wanted(service, self.target, self.transport), wait=wait
        ).SerializeToString()
        if wait:
            data, fds = await daemon.call(_OPEN, request)
        else:
            async with self.attachment().opening:
                data, fds = await daemon.call(_OPEN, request, timeout=DIAL_TIMEOUT)
        try:
            reply = node_pb2.OpenReply.FromString(data)
        except DecodeError as error:
            for fd in fds:
                fd.close()
            raise NodeError(f"the introduction by the daemon at {self.path} does not parse: {error}") from error
        choice = reply.choice
        peer = introduction.name_of(choice.server)
        if fds:
            wire = introduction.granted(fds, peer, choice.transport)
        else:
            sock = await dial.tcp(reply.address, DIAL_TIMEOUT, introduction.dialing(reply))
            wire = tcp.TcpWire(sock, peer=peer)
        connection = Connection(wire, self.settings, dialer=True, hello_timeout=HELLO_TIMEOUT)
        try:
            await connection.handshake()
            refusal = introduction.why_not(wire, self.transport)
            if refusal is not None:
                raise refusal
        except BaseException:
            connection.fail(WireClosed("nobody waits for it any more"))
            raise
        return Route(connection, choice.server, wire.kind, introduction.reason(wire, choice))

    def close(self) -> None:
        """Ends all routes. Calls under way fail."""
        if self._closed:
            return
        self._closed = True
        for making in list(self._making.values()):
            making.cancel()
        routes, self.routes = list(self.routes.values()), {}
        for route in routes:
            route.connection.fail(ChannelClosed(status.CHANNEL_CLOSED))
        if self._attachment is not None:
            loop_attach.release(self._attachment)
            self._attachment = None


class LoopNodeRouter(LoopRouter):
    """Routes everything to the daemon's own API."""

    async def _introduce(self, service: str, *, wait: bool) -> Route:  # noqa: ARG002
        connection = await self.attachment().connection()
        return Route(connection, node_pb2.Server(name="ipcd"), "unix", "the node's own API")

    def _kept(self, service: str, route: Route) -> Route:
        # The connection is the attachment's to end.
        if not self._closed:
            self.routes[service] = route
        return route

    def close(self) -> None:
        self.routes.clear()
        super().close()
