"""What a started aio server is made of: its connections, the calls that run, and how all of that ends.

The face (`server.py`) is a thing of its own so that it can be dropped: the loop, connections and the registration hold
this, nothing of them holds the face, and when it goes, so does this.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import grpc
from grpc.aio import UsageError as Misused

from ipcd_client.aio.context import ServicerContext
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.health import Health
from ipcd_client.errors import IpcdError, WireClosed, hostile
from ipcd_client.facade import health, introspection
from ipcd_client.facade.methods import CallDetails
from ipcd_client.facade.peer import Peer
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.life import Guard
from ipcd_client.loop.turns import Turns
from ipcd_client.node.registering import OnGrant
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.options import Options
from ipcd_client.wire.base import Wire

log = logging.getLogger("ipcd_client")

_STOPPING: Final = "the server is stopping"
_STOPPED: Final = "the server has stopped"
_WATCH_HEALTH: Final = CallDetails(health.WATCH, md.received(()))


class Registered(Protocol):
    """What a server needs of its registration."""

    server: node_pb2.Server | None

    async def start(self) -> None:
        """Registers, or raises why not."""

    def update(self, services: list[str]) -> None:
        """Registers what is served now instead."""

    def close(self) -> None:
        """Ends the registration."""


class ClosableGuard(Guard, Protocol):
    """To be closed with its connection."""

    def close(self) -> None:
        """The connection has ended."""


Guards = Callable[[Peer, Wire], ClosableGuard]
# (socket path, what is registered, on_grant)
Registrar = Callable[[str, node_pb2.RegisterRequest, OnGrant], Registered]


class CalledContext(ServicerContext):
    """Of a call whose caller the node has introduced."""

    peer_identity: Peer

    def peer(self) -> str:
        """The caller in grpcio's form."""
        return self.peer_identity.name

    def peer_identities(self) -> Iterable[bytes]:
        """One: spiffe://CLUSTER/node/NODE/uid/UID."""
        return self.peer_identity.identities()

    def peer_identity_key(self) -> str:
        """What `peer_identities` are."""
        return self.peer_identity.identity_key

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the node said of the caller's process."""
        return self.peer_identity.auth_context()


class State(enum.Enum):
    """How far a server is."""

    READY = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()
    STOPPED = enum.auto()


class Serving:
    """A server from its start to its end, on the loop that starts it. `ports`: the server that listens as real gRPC.
    `guards`: gives who watches over a caller's connection, from its wire; it is closed with that. None: nobody does."""

    def __init__(self, dispatcher: Dispatcher, options: Options, name: str, guards: Guards | None = None) -> None:
        self.dispatcher = dispatcher
        self.ports: grpc.aio.Server | None = None
        self.registration: Registered | None = None
        self.health: Health | None = None
        self.state = State.READY
        self.stopped = asyncio.Event()
        self._options = options
        self._settings = options.settings(accept_calls=True)
        self._name = name
        self._guards = guards
        self._watched: dict[Connection, ClosableGuard] = {}
        self._stopping = asyncio.Event()
        self._peers: dict[Connection, Peer] = {}
        self._turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._listening = False

    async def start(self, registrar: Registrar, path: str) -> None:
        """Attaches to the node and serves. Does nothing if it runs.

        Raises:
            grpc.aio.UsageError: it was stopped before.
            IpcdError: no daemon within `IPCD_ATTACH_TIMEOUT` seconds (10), or it refused the registration.
        """
        if self.state is State.RUNNING:
            return
        if self.state is not State.READY:
            raise Misused("Server not in ready state")
        self.state = State.RUNNING
        self._loop = asyncio.get_running_loop()
        handlers = self.dispatcher.handlers
        handlers.register_own(introspection.handlers(handlers.services))
        self.dispatcher.variables = contextvars.copy_context()
        request = node_pb2.RegisterRequest(
            name=self._name,
            services=sorted(handlers.services),
            weight=self._options.weight,
            spillover=self._options.spillover,
            instance=secrets.token_hex(8),
        )
        self.registration = registrar(path, request, self._on_grant)
        watch = handlers.find(_WATCH_HEALTH) if health.SERVICE in handlers.services else None
        self.health = Health(watch, health.States(handlers.services), self._serves)
        self._life = self._loop.create_task(self._live(), name="ipcd-server")
        try:
            await self.registration.start()
            if self.ports is not None:
                self._listening = True
                await self.ports.start()
        except BaseException:
            await self.stop(None)
            raise

    def served(self) -> None:
        """There are other handlers now."""
        if self.registration is not None and self.health is not None:
            self.health.states.services = sorted(self.dispatcher.handlers.services)
            self._serves(self.health.states.serving())

    def _serves(self, services: list[str]) -> None:
        """Registers these, and has the others' callers go elsewhere."""
        if self.registration is None or self.state is not State.RUNNING:
            return
        self.registration.update(services)
        known = self.dispatcher.handlers.services
        for connection, peer in list(self._peers.items()):
            service = peer.grant.service
            if service in known and service not in services:
                connection.drain(f"{service} is NOT_SERVING here")

    async def stop(self, grace: float | None) -> None:
        """Takes no new calls, and gives those under way `grace` seconds; without any, they are cancelled at once.
        Whoever gives the least decides. Returns when all is over."""
        if self.state in (State.READY, State.STOPPED):
            return
        if self.state is State.RUNNING:
            self.state = State.STOPPING
            self._take_no_more()
            self._stopping.set()
        if self.ports is None:
            await self._stopped_within(grace)
        else:
            await asyncio.gather(self._stopped_within(grace), self.ports.stop(grace))

    def dropped(self) -> None:
        """Nobody holds the server any more. To be called by the collector, in any thread."""
        if self.state is not State.RUNNING or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._stop_soon)
        except RuntimeError:
            pass  # the loop is closed, and with it all that ran there

    def _stop_soon(self) -> None:
        # A loop holds no tasks: somebody has to.
        self._dropping = asyncio.get_running_loop().create_task(self.stop(None))

    async def _stopped_within(self, grace: float | None) -> None:
        try:
            async with asyncio.timeout(grace or 0):
                await self.stopped.wait()
        except TimeoutError:
            await self.dispatcher.stop()
            await self.stopped.wait()

    async def _live(self) -> None:
        """Until the last call of a server that was stopped has ended, or the loop is given up."""
        try:
            await self._stopping.wait()
            await self.dispatcher.idle()
            if self.ports is not None and self._listening:
                await self.ports.wait_for_termination()
            await asyncio.gather(*[connection.close(_STOPPED) for connection in self._peers])
        finally:
            if self.health is not None:
                await self.health.close()
            self.state = State.STOPPED
            self._take_no_more()
            for connection in list(self._peers):
                connection.fail(WireClosed(_STOPPED))
            self.stopped.set()

    def _take_no_more(self) -> None:
        if self.registration is not None:
            self.registration.close()
        for connection in list(self._peers):
            connection.drain(_STOPPING)

    # -- connections ------------------------------------------------------------------------------

    def _on_grant(self, grant: node_pb2.Grant, wire: Wire) -> None:
        if self.state is not State.RUNNING:
            wire.abort()
            return
        peer = Peer(grant, wire)
        guard = self._guards(peer, wire) if self._guards is not None else None
        connection = Connection(wire, self._settings, dialer=False, guard=guard)
        if guard is not None:
            self._watched[connection] = guard
        self._peers[connection] = peer
        self._turns.add(peer.process, connection)
        connection.on_closed = lambda error: self._on_closed(connection, error)
        self.dispatcher.serve(connection, peer, peer.refusal if peer.only is not None else None)
        if connection.error is not None:
            self._on_closed(connection, connection.error)

    def _on_closed(self, connection: Connection, error: IpcdError) -> None:
        peer = self._peers.pop(connection, None)
        guard = self._watched.pop(connection, None)
        if guard is not None:
            guard.close()
        if peer is not None:
            self._turns.remove(peer.process, connection)
            log.log(
                logging.WARNING if hostile(error) else logging.DEBUG, "connection from %s ended: %s", peer.name, error
            )
