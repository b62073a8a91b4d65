"""The gateway: gRPC's own server in front, our connections behind, and the road between them.

It runs on the daemon's loop. Its callers pay for grpcio, for one hop more and for the daemon's attention; programs that
use the SDK do not go through it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from ipcd_client.access.rules import COMMAND, OF_THINGS
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import ConfigError, IpcdError, NodeError, NotAllowed
from ipcd_client.facade import introspection
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node.target import Target
from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc, node_pb2, node_pb2_grpc, wire_pb2
from ipcd_client.wire.tcp import join_address, split_address

from ipcd import limits
from ipcd.backends import SETTINGS, Backend, Backends
from ipcd.broker import Broker
from ipcd.config import Config
from ipcd.gateway import health, reflection
from ipcd.gateway.budget import Budget, owner_of
from ipcd.gateway.home import Home, named, offered
from ipcd.gateway.own import OwnServices
from ipcd.gateway.relay import Relay, end, service_of
from ipcd.listener import SocketFile, listen_tcp
from ipcd.log import Log
from ipcd.parties import daemon
from ipcd.primitives.directory import Directory
from ipcd.primitives.servicer import NamesServicer
from ipcd.servicer import NodeServicer, status_of
from ipcd.state.primitives import KIND_OF, RULED_AS, SERVICES
from ipcd.state.quota import Shares

_NODE: Final = node_pb2.DESCRIPTOR.services_by_name["Node"].full_name
_NAMES: Final = names_pb2.DESCRIPTOR.services_by_name["Names"].full_name
_OWN: Final = frozenset({_NODE, _NAMES, health.SERVICE, *reflection.SERVICES})
# Seconds: for a server to describe a service, and for the last statuses to leave.
_DESCRIBE: Final = 5.0
_FAREWELL: Final = 0.5

_OPTIONS: Final = (
    # Else a second daemon could listen on the same port, and each would get some of the callers.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", limits.GATEWAY_MESSAGE),
    ("grpc.max_send_message_length", limits.GATEWAY_MESSAGE),
    ("grpc.max_metadata_size", SETTINGS.max_metadata),
    ("grpc.absolute_max_metadata_size", SETTINGS.max_metadata),
    ("grpc.max_allowed_incoming_connections", limits.ATTACHED),
    # Of calls that have come and are not looked at yet. Past these it cancels some, by chance; the gateway's own limit
    # has words.
    ("grpc.server.max_pending_requests", 2 * limits.GATEWAY_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 4 * limits.GATEWAY_CALLS),
)


class Gateway:
    """`open`, `start`, then `stop`, all on one loop."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        servicer: NodeServicer,
        names: NamesServicer,
        directory: Directory,
        log: Log,
    ) -> None:
        self.socket = config.grpc_socket  # empty: none
        self.listen = config.grpc_listen  # HOST:PORT once open; empty: none
        self._broker = broker
        self._file = SocketFile(config.grpc_socket, "--grpc-socket") if config.grpc_socket else None
        self._backends = Backends(broker, log)
        self._health = health.Health(self._provides, broker.changed)
        self._directory = directory
        self._own = OwnServices(self._answering(servicer, names), _OWN, daemon(config.node))
        self._server = aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Everything(self),))
        self._calls = Shares("calls of the gateway at once", limits.GATEWAY_CALLS, limits.GATEWAY_CALLS_EACH)
        self._held = Shares("bytes that wait in the gateway", limits.GATEWAY_BYTES, limits.GATEWAY_BYTES_EACH)
        self._relayed = 0  # calls that others answer
        self._ended = Waiters()  # a call has
        self._stopping = False

    def _answering(self, servicer: NodeServicer, names: NamesServicer) -> Server:
        server = Server(status_of=status_of)
        node_pb2_grpc.add_NodeServicer_to_server(servicer, server)
        names_pb2_grpc.add_NamesServicer_to_server(names, server)
        server.add_registered_method_handlers(health.SERVICE, self._health.handlers())
        described = reflection.Reflection(self._services, self._describe)
        for name in reflection.SERVICES:
            server.add_registered_method_handlers(name, described.handlers())
        return server

    # -- life -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Binds the addresses. Callers wait until `start`.

        Raises:
            ConfigError: one cannot be bound, and why.
        """
        if self.listen:
            # grpcio says why it cannot on standard error alone: tried first, for the reason.
            listen_tcp(self.listen, "grpc-listen").close()
            port = self._bound(self.listen, f"grpc-listen {self.listen}")
            self.listen = join_address(split_address(self.listen)[0], port)
        if self._file is not None:
            self._file.bind(lambda path: self._bound(f"unix:{path}", f"socket {self.socket}"))

    def addresses(self) -> list[str]:
        """As gRPC's clients write them."""
        return [f"unix:{Path(self.socket).absolute()}"] * bool(self.socket) + [self.listen] * bool(self.listen)

    def _bound(self, address: str, what: str) -> int:
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"{what}: {error}") from error

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no new calls, gives those under way `grace` seconds, and ends. The gateway's own, of which some last
        for ever, have none."""
        self._stopping = True
        self._health.stopping = True
        self._broker.changed.progressed()
        self.abandon()
        # Not grpcio's own grace: it breaks off what is read and written from its begin on.
        await self._until(lambda: not self._relayed, grace)
        await self._own.close(self._farewell())
        await self._backends.close()
        await self._until(lambda: not self._calls.used, _FAREWELL)
        await self._server.stop(None)

    async def _until(self, condition: Any, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._ended.wait()

    def abandon(self) -> None:
        """For an end at once: removes the socket file."""
        if self._file is not None:
            self._file.remove()

    def _farewell(self) -> str:
        return f"node {self._broker.node} is stopping"

    # -- calls ------------------------------------------------------------------------------------

    async def call(self, method: str, context: Any) -> None:
        """A call of any method, which grpcio has taken."""
        owner = owner_of(context.peer())
        try:
            if self._stopping:
                raise NodeError(self._farewell())
            self._calls.take(owner)
        except IpcdError as error:
            end(context, error.code, str(error))
            return
        relayed = service_of(method) not in _OWN
        self._relayed += relayed
        try:
            identity = self._broker.access.of_gateway(tcp=not context.peer().startswith("unix:"))
            home = self._homes(method, identity)
            await Relay(method, context, partial(self._find, identity), Budget(self._held, owner), home).run()
        finally:
            self._relayed -= relayed
            self._calls.give(owner)
            self._ended.progressed()

    def _homes(self, method: str, identity: str) -> Home | None:
        """Of the primitives: the node of the thing that a request names, which every such request does first."""
        service = service_of(method)
        if service == COMMAND:
            return Home(offered, identity)
        kind = KIND_OF.get(service)
        if kind is None:
            return None

        def kept(request: bytes, said: Target) -> Target:
            if said.node:
                return said
            return said._replace(node=self._directory.find(kind, named(request)) or self._broker.node)

        rules = self._broker.access.rules

        def about(request: bytes) -> str:
            return named(request).partition("@")[0] if rules.differ_for(identity) else ""

        def withheld(request: bytes) -> list[str]:
            what = f"{RULED_AS.get(method, kind)}:{named(request).partition('@')[0]}"
            return [verb for verb in OF_THINGS if not rules.decide(identity, verb, what).allowed]

        return Home(kept, identity, withheld, about)

    async def _find(self, identity: str, service: str, target: Target, tried: set[str]) -> Backend:
        if service in _OWN:
            if target.server or target.node not in {"", self._broker.node}:
                raise limits.InvalidRequest(f"{service} is answered by node {self._broker.node}, whose gateway this is")
            return await self._own.connected()
        wanted = node_pb2.ResolveRequest(service=service, node=target.node, server=target.server)
        refusal: NotAllowed | None = None
        while True:
            candidate = self._backends.choose(wanted, identity, tried)
            if refusal is not None and candidate.server.id in tried:
                raise refusal
            tried.add(candidate.server.id)
            try:
                return await self._backends.connected(wanted, candidate, identity)
            except NotAllowed as error:
                # Its node has rules of its own; another's may be others.
                refusal = error

    # -- what is served ---------------------------------------------------------------------------

    def _provides(self, service: str) -> bool:
        return service in _OWN or service in SERVICES or bool(self._broker.catalog.servers(service))

    def _services(self) -> dict[str, str]:
        found = dict.fromkeys(_OWN | SERVICES, "")
        for server in self._broker.catalog.servers():
            for service in server.services:
                if service:
                    found.setdefault(service, server.id)
        return found

    async def _describe(self, service: str) -> Sequence[bytes]:
        backend = await self._find(self._broker.access.of_gateway(tcp=False), service, Target("", ""), set())
        request = wire_pb2.DescribeRequest(service=service).SerializeToString()
        data, _ = await backend.connection.call(introspection.DESCRIBE, request, timeout=_DESCRIBE)
        return wire_pb2.DescribeReply.FromString(data).files


class _Everything(grpc.GenericRpcHandler):
    """A handler for whatever is called: streams of bytes both ways carry the other kinds too."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method

        async def call(_requests: object, context: Any) -> None:
            await self._gateway.call(method, context)

        return grpc.stream_stream_rpc_method_handler(call)
