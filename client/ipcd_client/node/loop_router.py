"""From a service's name to a connection with a server that provides it, on an event loop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from ipcd_client.errors import ChannelClosed, IpcdError, NoDaemon, NodeError, ProtocolError, WireClosed, WireError
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.life import HELLO_TIMEOUT
from ipcd_client.node import attach, introduction, loop_attach
from ipcd_client.node.introduction import ATTEMPTS, DIAL_TIMEOUT, DIRECT_TIMEOUT, RETRY_FIRST, RETRY_MOST
from ipcd_client.node.over_tcp import wire_on
from ipcd_client.node.pool import REFRESH, SPREAD, Pool
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd, close_all

log = logging.getLogger("ipcd_client")

_OPEN: Final = attach.API + "Open"
_RESOLVE: Final = attach.API + "Resolve"


class Route(NamedTuple):
    """A connection with a server, and how it came about."""

    connection: Connection
    server: node_pb2.Server
    transport: str
    reason: str
    caller: str = ""  # the caller's node


class _Making:
    """An introduction under way, and how many calls wait for it."""

    def __init__(self, introduced: Coroutine[Any, Any, Route]) -> None:
        self.task = asyncio.get_running_loop().create_task(introduced)
        self.waiting = 0


class LoopRouter:
    """The routes of one channel, a pool for each service, on the loop that first uses it. `settings`: limits for
    connections with servers. `spread`: servers of one service that share the calls."""

    def __init__(self, path: str, target: Target, transport: str, settings: Settings, spread: int = SPREAD) -> None:
        self.path = path
        self.target = target
        self.transport = introduction.checked(transport)
        self.pools: dict[str, Pool[Route]] = {}
        self.settings = settings
        self._spread = spread
        # The attachment's version for which the pools are right; -1 where one is known not to be.
        self._seen = 0
        self._retry_at = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self._attachment: loop_attach.Attachment | None = None
        self._making: dict[tuple[str, bool], _Making] = {}  # by service, and whether it waits for a server
        self._closed = False

    def attachment(self) -> loop_attach.Attachment:
        """The loop's connection with the daemon."""
        if self._attachment is None:
            self._attachment = loop_attach.hold(self.path)
        return self._attachment

    def usable(self, service: str) -> Connection | None:
        """Whose the next call of the service is; None if there is no connection with a server yet, or any more."""
        pool = self.pools.get(service)
        if pool is None:
            return None
        if self._attachment is not None and self._attachment.version != self._seen:
            self._look(self._attachment)
        only = pool.only
        if only is not None and only.connection.usable:
            return only.connection
        route = pool.pick()
        return route.connection if route is not None else None

    async def connect(self, service: str, *, wait: bool) -> Route:
        """A route to a server of the service: one in use, or a new one. With `wait`, waits for a server, and for
        the daemon.

        Raises:
            IpcdError: there is none; `code` and text are the call's.
        """
        while True:
            pool = self.pools.get(service)
            route = pool.pick() if pool is not None else None
            if route is not None:
                return route
            if self._closed:
                raise ChannelClosed(status.CHANNEL_CLOSED)
            return await self._make(service, wait=wait)

    async def _make(self, service: str, *, wait: bool) -> Route:
        """An introduction for all calls of the service that ask for one now, in a task of its own: those who wait for
        it may give up one by one, and with the last of them, so does it."""
        key = (service, wait)
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(self._introduced(service, wait=wait))
            making.task.add_done_callback(lambda task: self._made(key, making, task))
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.waiting -= 1
            if not making.waiting and not making.task.done():
                making.task.cancel()
                self._forget(key, making)

    def _made(self, key: tuple[str, bool], making: _Making, task: asyncio.Task[Route]) -> None:
        self._forget(key, making)
        if not task.cancelled() and task.exception() is None:
            self._kept(key[0], task.result())

    def _forget(self, key: tuple[str, bool], making: _Making) -> None:
        # Whoever came after it was given up may have begun another.
        if self._making.get(key) is making:
            del self._making[key]

    def _kept(self, service: str, route: Route) -> Route:
        if self._closed:
            route.connection.fail(ChannelClosed(status.CHANNEL_CLOSED))
            return route
        pool = self.pools.get(service)
        if pool is None:
            pool = self.pools[service] = Pool()
        if route not in list(pool):
            for useless in pool.put(route, route.caller):
                useless.connection.retire()
        return route

    # -- the other servers ------------------------------------------------------------------------

    def _look(self, attachment: loop_attach.Attachment) -> None:
        """The node has news: asks for them, and no call waits for it."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._retry_at and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = loop.create_task(self._refresh(attachment), name="ipcd-routes")

    async def _refresh(self, attachment: loop_attach.Attachment) -> None:
        version = attachment.version
        try:
            async with asyncio.timeout(REFRESH):
                for service in list(self.pools):
                    await self._spread_out(service, attachment)
        except (IpcdError, TimeoutError) as error:
            self._retry_at = asyncio.get_running_loop().time() + RETRY_MOST
            log.debug("how the servers stand is not known: %s", error)
        else:
            self._seen = version

    async def _spread_out(self, service: str, attachment: loop_attach.Attachment) -> None:
        """Connects with those servers of the service that are to share its calls, and gives up those that are not.

        Raises:
            IpcdError: the daemon cannot be asked.
        """
        daemon = await attachment.connection()
        request = introduction.wanted(service, self.target, self.transport).SerializeToString()
        try:
            data, _ = await daemon.call(_RESOLVE, request, timeout=REFRESH)
            reply = node_pb2.ResolveReply.FromString(data)
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                return  # nobody serves it, as far as the node knows: those that still do are kept
            raise
        except DecodeError as error:
            raise NodeError(f"what the daemon at {self.path} knows of {service} does not parse: {error}") from error
        pool = self.pools.get(service)
        if pool is None:
            return  # the channel was closed meanwhile
        for server_id in pool.missing(reply.candidates, reply.node, self._spread):
            try:
                self._kept(service, await self._introduce(service, wait=False, server_id=server_id))
            except (CallFailed, WireError, ProtocolError) as error:
                log.debug("server %s gets no calls of %s: %s", server_id, service, error)
        surplus = pool.surplus(reply.candidates)
        pool.drop(surplus)
        for route in surplus:
            route.connection.retire()

    # -- introductions ----------------------------------------------------------------------------

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

    async def _introduce(self, service: str, *, wait: bool, server_id: str = "") -> Route:
        daemon = await self.attachment().connection()
        target = introduction.wanted(service, self.target, self.transport)
        target.server_id = server_id
        reply, wire = await self._opened(daemon, node_pb2.OpenRequest(target=target, wait=wait))
        choice = reply.choice
        connection = Connection(wire, self.settings, dialer=True, hello_timeout=HELLO_TIMEOUT)
        try:
            await connection.handshake()
            refusal = introduction.why_not(wire, self.transport)
            if refusal is not None:
                raise refusal
        except BaseException:
            connection.fail(WireClosed("nobody waits for it any more"))
            raise
        if reply.preferred > 1 and not server_id:
            self._seen = -1
        return Route(connection, choice.server, wire.kind, introduction.reason(wire, choice), reply.node)

    async def _opened(self, daemon: Connection, request: node_pb2.OpenRequest) -> tuple[node_pb2.OpenReply, Wire]:
        dials = introduction.Dials(request)
        while True:
            reply, fds = await self._asked(daemon, request)
            peer = introduction.name_of(reply.choice.server)
            if fds:
                return reply, introduction.granted(fds, peer, reply)
            first = dials.begin(reply)
            try:
                sock = await dial.tcp(reply.address, DIRECT_TIMEOUT, first)
            except WireError as error:
                dials.failed(reply, error)
            else:
                return reply, wire_on(sock, peer, reply, server_side=False)

    async def _asked(
        self, daemon: Connection, request: node_pb2.OpenRequest
    ) -> tuple[node_pb2.OpenReply, Sequence[Fd]]:
        try:
            if request.wait:
                data, fds = await daemon.call(_OPEN, request.SerializeToString())
            else:
                async with self.attachment().opening:
                    data, fds = await daemon.call(_OPEN, request.SerializeToString(), timeout=DIAL_TIMEOUT)
        except CallFailed as error:
            introduction.check_answered(error, daemon.usable)
            raise
        try:
            return node_pb2.OpenReply.FromString(data), fds
        except DecodeError as error:
            close_all(fds)
            raise NodeError(f"the introduction by the daemon at {self.path} does not parse: {error}") from error

    def close(self) -> None:
        """Ends all routes. Calls under way fail."""
        if self._closed:
            return
        self._closed = True
        for making in list(self._making.values()):
            making.task.cancel()
        if self._refreshing is not None:
            self._refreshing.cancel()
        routes = [route for pool in self.pools.values() for route in pool]
        self.pools.clear()
        for route in routes:
            route.connection.fail(ChannelClosed(status.CHANNEL_CLOSED))
        if self._attachment is not None:
            loop_attach.release(self._attachment)
            self._attachment = None


class LoopNodeRouter(LoopRouter):
    """Routes everything to the daemon's own API."""

    async def _introduce(self, service: str, *, wait: bool, server_id: str = "") -> Route:  # noqa: ARG002
        connection = await self.attachment().connection()
        return Route(connection, node_pb2.Server(name="ipcd"), "unix", "the node's own API")

    def _kept(self, service: str, route: Route) -> Route:
        if not self._closed:
            pool = self.pools[service] = Pool()
            pool.put(route, "")
        return route

    def _look(self, attachment: loop_attach.Attachment) -> None:
        """There is one daemon."""

    def close(self) -> None:
        # The connection is the attachment's to end.
        self.pools.clear()
        super().close()
