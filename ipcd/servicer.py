"""The node's own API, `ipcd.v1.Node`."""

# ruff: noqa: N802, ARG002 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import EOF
from ipcd_client import __version__
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc
from ipcd_client.primitives.errors import PrimitiveError

from ipcd import limits
from ipcd.broker import Broker
from ipcd.parties import Attached
from ipcd.state.quota import Shares

# Seconds for which changes of the catalog are gathered before watchers are told.
_GATHER: Final = 0.02


def status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """Errors of ours are answers, and so is a request that does not parse: peers could fill the log with it. Any other
    is a bug. (aio.server.StatusOf)"""
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INTERNAL, f"the request does not parse: {error}"
    if isinstance(error, PrimitiveError):
        return error.code, error.details()
    return (error.code, str(error)) if isinstance(error, IpcdError) else None


class CallQuota:
    """How many calls each peer may have open. (aio.dispatch.Quota)"""

    def __init__(self, calls: Shares) -> None:
        self._calls = calls

    def begin(self, identity: Any) -> str:
        try:
            self._calls.take(identity.owner)
        except limits.LimitReached as error:
            return str(error)
        return ""

    def end(self, identity: Any) -> None:
        self._calls.give(identity.owner)


class NoDescriptors(IpcdError):
    """The connection cannot carry what the method hands over."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NodeServicer(node_pb2_grpc.NodeServicer):
    """`about` gives what only the composition root knows: a StatusReply without what the broker counts. `list_nodes`
    likewise."""

    def __init__(
        self,
        broker: Broker,
        about: node_pb2.StatusReply,
        list_nodes: Callable[[], Sequence[node_pb2.NodeInfo]],
    ) -> None:
        self._broker = broker
        self._about = about
        self._list_nodes = list_nodes
        self._start = time.monotonic()

    async def Status(self, request: node_pb2.StatusRequest, context: ServicerContext) -> node_pb2.StatusReply:
        """Who this node is."""
        reply = node_pb2.StatusReply()
        reply.CopyFrom(self._about)
        reply.version = __version__
        reply.pid = os.getpid()
        reply.uptime = time.monotonic() - self._start
        reply.servers = self._broker.catalog.count(self._broker.node)
        reply.attached = self._broker.attached
        return reply

    async def ListNodes(self, request: node_pb2.ListNodesRequest, context: ServicerContext) -> node_pb2.ListNodesReply:
        """Which nodes it knows."""
        reply = node_pb2.ListNodesReply(nodes=self._list_nodes())
        for info in reply.nodes:
            if info.state == info.STATE_SELF:
                info.age = time.monotonic() - self._start
        return reply

    async def ListCatalog(
        self, request: node_pb2.ListCatalogRequest, context: ServicerContext
    ) -> node_pb2.ListCatalogReply:
        """Who serves what."""
        return node_pb2.ListCatalogReply(servers=self._broker.catalog.servers(request.service))

    async def WatchCatalog(
        self, request: node_pb2.ListCatalogRequest, context: ServicerContext
    ) -> AsyncIterator[node_pb2.ListCatalogReply]:
        """The same, at once and after each change of it."""
        # Not the reply: with many watchers, those would be many copies of the catalog.
        last: list[node_pb2.Server] | None = None
        with self._watching(context):
            while True:
                servers = self._broker.catalog.servers(request.service)
                if servers != last:
                    last = servers
                    yield node_pb2.ListCatalogReply(servers=servers)
                    # While the watcher was slow there may have been changes: looked for before waiting for more.
                    continue
                await self._broker.changed.wait()
                await asyncio.sleep(_GATHER)

    async def WatchChanges(
        self, request: node_pb2.WatchChangesRequest, context: ServicerContext
    ) -> AsyncIterator[node_pb2.Changed]:
        """That something has changed of the servers of those services for which the process was introduced."""
        identity = context.peer_identity
        opened = identity.opened if isinstance(identity, Attached) else ()
        last: list[node_pb2.Server] | None = None
        with self._watching(context):
            while True:
                standing = self._broker.standing(opened)
                if last is None or len(standing) != len(last) or any(map(operator.is_not, standing, last)):
                    last = standing
                    yield node_pb2.Changed()
                    continue
                await self._broker.changed.wait()
                await asyncio.sleep(_GATHER)

    @contextlib.contextmanager
    def _watching(self, context: ServicerContext) -> Iterator[None]:
        """Counts a watch, as long as it lasts."""
        identity = context.peer_identity
        if not isinstance(identity, Attached):
            yield  # by the gateway, which has bounds of its own
            return
        limits.check("watches of one connection", identity.watches + 1, limits.WATCHES_PER_CONNECTION)
        self._broker.quotas.watches.take(identity.owner)
        identity.watches += 1
        identity.charge(limits.COST_WATCH)
        try:
            yield
        finally:
            identity.watches -= 1
            self._broker.quotas.watches.give(identity.owner)

    async def Resolve(self, request: node_pb2.ResolveRequest, context: ServicerContext) -> node_pb2.ResolveReply:
        """Where a call would go."""
        broker, access = self._broker, self._broker.access
        peer = context.peer_identity
        caller = peer.process if isinstance(peer, Attached) else None
        # A question: whoever may ask may ask for others, too.
        identity = access.of(caller) if caller is not None else access.of_gateway(tcp=True)
        if request.caller:
            asked = access.asked(request.caller)
            identity = str(asked)
            caller = None if asked.uid is None else node_pb2.Process(node=asked.node, uid=asked.uid)
            if asked.node != broker.node and not request.transport:
                # From there it cannot come otherwise.
                request.transport = node_pb2.TRANSPORT_TCP
        return node_pb2.ResolveReply(candidates=broker.resolve(request, caller, (identity,)), node=broker.node)

    async def Open(self, request: node_pb2.OpenRequest, context: ServicerContext) -> node_pb2.OpenReply:
        """Introduces the caller to a server."""
        attached = _attached(context, "Open")
        if request.HasField("undialed"):
            self._broker.undialed(attached, request.undialed)
        reply, fds = await self._broker.open(attached, request.target, request.wait)
        context.attach_fds(fds)
        return reply

    async def Register(self, requests: AsyncIterator[Any], context: ServicerContext) -> None:
        """Registers a server for as long as the call lasts."""
        attached = _attached(context, "Register")
        try:
            async with asyncio.timeout(limits.REGISTER):
                first = await context.read()
        except TimeoutError:
            raise limits.InvalidRequest(f"no RegisterRequest came within {limits.REGISTER:g} s") from None
        if first is EOF:
            raise limits.InvalidRequest("Register was called without a RegisterRequest")
        registration = self._broker.register(attached, first, context)
        why = "it ended the registration"
        try:
            registered = node_pb2.Registered(server=registration.server)
            await context.write(node_pb2.RegisterReply(registered=registered))
            while (request := await context.read()) is not EOF:
                self._broker.update(registration, request)
        except asyncio.CancelledError:
            why = context.why_cancelled() or "the node is stopping"
            raise
        except IpcdError as error:
            why = str(error)
            raise
        finally:
            self._broker.unregister(registration, why)


def _attached(context: ServicerContext, method: str) -> Attached:
    identity = context.peer_identity
    if not isinstance(identity, Attached) or not context.carries_fds:
        raise NoDescriptors(f"{method} hands over a descriptor, which this connection cannot carry")
    return identity
