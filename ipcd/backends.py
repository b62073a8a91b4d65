"""Connections of the daemon with servers, as its gateway needs them, shared by all calls of one service."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final, NamedTuple

from ipcd_client import __version__
from ipcd_client.errors import IpcdError, WireClosed
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.life import HELLO_TIMEOUT
from ipcd_client.loop.stream import close_all
from ipcd_client.node import introduction
from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd import limits
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.parties import Attached, daemon
from ipcd.state.primitives import SERVICES
from ipcd.state.reach import NODE, Reach

SETTINGS: Final = Settings(
    max_message=limits.GATEWAY_MESSAGE,
    accept_calls=False,
    software=f"ipcd gateway {__version__}",
)


class _Key(NamedTuple):
    """What has a connection of its own: a server, by its id, for whom the calls are, where they are not as the daemon's
    own, and the service, since the server's node judges each of these by itself, when it is first called."""

    server_id: str
    called_for: str = ""
    service: str = ""


class Backend:
    """A connection with a server, and how many calls are on it. `calls` is counted by whoever makes them."""

    def __init__(self, connection: Connection, server: node_pb2.Server) -> None:
        self.connection = connection
        self.server = server
        self.calls = 0


class Backends:
    """Chooses a server for each call, and connects to it where there is no connection yet.

    The broker introduces this process as it does any other. `limit`: of connections.
    """

    def __init__(self, broker: Broker, log: Log, limit: int = limits.GATEWAY_SERVERS) -> None:
        self._broker = broker
        # Not one of those attached: it has few connections with each server, which tell nothing of a server's load.
        self._process = daemon(broker.node)
        self._reach = Reach(NODE)
        self._log = log
        self._limit = limit
        self._backends: dict[_Key, Backend] = {}
        self._making: dict[_Key, asyncio.Task[Backend]] = {}
        self._candidates: dict[tuple[str, str, str, str], list[node_pb2.Candidate]] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._watching = asyncio.get_running_loop().create_task(self._forget_candidates())

    def choose(self, target: node_pb2.ResolveRequest, identity: str, tried: Collection[str]) -> node_pb2.Candidate:
        """The server that a call goes to: one on this node where there is one, and of those equally near the one with
        the fewest calls on the connection that this one would take, then the one whose last turn is longest ago.
        `identity`: the caller's; `tried`, ids of servers, are the last choice.

        Raises:
            IpcdError: there is none.
            NotAllowed: none that the caller may call.
        """
        key = (identity, target.service, target.node, target.server)
        candidates = self._candidates.get(key)
        if candidates is None:
            # Without a caller, since this process takes no part in shared memory. Whom our gateway lets in is ours to
            # say: so what our rules say of those for whom we call holds for other nodes' servers too.
            found = self._broker.eligible(target, None, (identity,), everywhere=True)
            nearest = found[0].server.process.node == self._broker.node
            candidates = [one for one in found if (one.server.process.node == self._broker.node) is nearest]
            self._candidates[key] = candidates
        if len(candidates) == 1:
            return candidates[0]
        chosen = min(
            candidates,
            key=lambda one: (one.server.id in tried, *self._load(self._key(target, one.server.id, identity))),
        )
        self._turn += 1
        self._turns[chosen.server.id] = self._turn
        return chosen

    def _key(self, target: node_pb2.ResolveRequest, server_id: str, identity: str) -> _Key:
        # Of the primitives each call says for whom it is.
        if target.service in SERVICES:
            return _Key(server_id)
        called_for = identity if identity != self._broker.access.of(self._process) else ""
        return _Key(server_id, called_for, target.service)

    def _load(self, key: _Key) -> tuple[int, int]:
        backend = self._backends.get(key)
        return (0 if backend is None else backend.calls, self._turns.get(key.server_id, 0))

    async def connected(self, target: node_pb2.ResolveRequest, candidate: node_pb2.Candidate, identity: str) -> Backend:
        """The connection with a candidate, for calls of that one. On another node it may be with another server of that
        one's choice.

        Raises:
            IpcdError: there is none.
        """
        key = self._key(target, candidate.server.id, identity)
        backend = self._backends.get(key)
        if backend is not None:
            if backend.connection.usable:
                return backend
            self._drop(key, backend)
        making = self._making.get(key)
        if making is None:
            self._make_room()
            # A task of its own: a caller that gives up takes nobody else's connection away.
            making = asyncio.get_running_loop().create_task(self._make(target, candidate, key))
            self._making[key] = making
            making.add_done_callback(lambda task: self._made(key, task))
        return await asyncio.shield(making)

    def _make_room(self) -> None:
        if len(self._backends) + len(self._making) < self._limit:
            return
        idle = next((each for each in self._backends.items() if not each[1].calls), None)
        if idle is None:
            raise limits.LimitReached(f"the limit of {self._limit} connections of the gateway with servers is reached")
        self._drop(*idle)

    def _made(self, key: _Key, task: asyncio.Task[Backend]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # those who wait for it have it

    async def _make(self, target: node_pb2.ResolveRequest, candidate: node_pb2.Candidate, key: _Key) -> Backend:
        caller = Attached(self._process, reach=self._reach, called_for=key.called_for)
        reply, fds = await self._broker.introduce_to(caller, target, candidate)
        server = reply.choice.server
        key = key._replace(server_id=server.id)
        existing = self._backends.get(key)
        if existing is not None and existing.connection.usable:
            # Its node chose one that we know.
            close_all(fds)
            return existing
        wire = introduction.granted(fds, introduction.name_of(server), reply)
        connection = Connection(wire, SETTINGS, dialer=True, hello_timeout=HELLO_TIMEOUT)
        try:
            await connection.handshake()
        except BaseException:
            connection.fail(WireClosed("nobody waits for it any more"))
            raise
        backend = Backend(connection, server)
        connection.on_closed = lambda error: self._ended(key, backend, error)
        self._backends[key] = backend
        self._log.debug("gateway connected", server=server.id, pid=server.process.pid, over=wire.kind)
        return backend

    def _ended(self, key: _Key, backend: Backend, error: IpcdError) -> None:
        self._forget(key, backend)
        self._log.debug("gateway disconnected", server=backend.server.id, reason=error)

    def _drop(self, key: _Key, backend: Backend) -> None:
        """Makes no further calls on it; those under way go on."""
        self._forget(key, backend)
        backend.connection.retire()

    def _forget(self, key: _Key, backend: Backend) -> None:
        if self._backends.get(key) is backend:
            del self._backends[key]

    async def _forget_candidates(self) -> None:
        while True:
            await self._broker.changed.wait()
            self._candidates.clear()
            connected = {key.server_id for key in self._backends}
            self._turns = {server: turn for server, turn in self._turns.items() if server in connected}

    async def close(self) -> None:
        """Ends all connections."""
        tasks = [self._watching, *self._making.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for backend in list(self._backends.values()):
            backend.connection.fail(WireClosed("the gateway has stopped"))
