"""Introduces callers to servers: chooses one, connects the two, and is out of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError, NodeError, NotAllowed
from ipcd_client.frame import preamble
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.access import Access
from ipcd.log import Log
from ipcd.quota import Guard, Quotas
from ipcd.state import choice, quota
from ipcd.state.catalog import ID_MOST, Catalog, checked
from ipcd.state.reach import AUTO, Reach
from ipcd.state.tokens import Tokens
from ipcd.ways import Ways

if TYPE_CHECKING:
    from ipcd.security import Security

_INSTANCE = re.compile("[0-9a-f]{16,64}")
# Seconds until servers that could not take a caller are asked again.
_RETRY = 0.05


class Links(Protocol):
    """The other nodes, as the broker needs them."""

    def names(self) -> Sequence[str]:
        """Nodes there is a link with."""

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        """Asks a node for an introduction: its answer, and the HOST:PORT at which its token is good.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:
        """Asks a node to dial this one.

        Raises:
            IpcdError: it cannot be asked, or could not.
        """

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Tells every node of a change of our own servers."""


class NoLinks:
    """A node alone. (Links)"""

    def names(self) -> Sequence[str]:
        return ()

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        raise NodeError(f"there is no link with node {node}, asked for {request.target.service}")

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:  # noqa: ARG002
        raise NodeError(f"there is no link with node {node}")

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        pass


@dataclass(eq=False, slots=True)
class Attached:
    """A process on the other end of a connection to our socket."""

    process: node_pb2.Process
    # Connections granted to it, by the server's id: what a caller that is gone had is over.
    granted: Counter[str] = field(default_factory=Counter)
    registered: int = 0
    waiting: int = 0
    watches: int = 0
    # Services that it was introduced for: of whose servers it wants to hear.
    opened: set[str] = field(default_factory=set)
    reach: Reach = field(default_factory=Reach)
    guard: Guard | None = None  # of its connection
    owner: quota.Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = quota.local(self.process.uid, self.process.pid, self.process.pidfd_id)

    def charge(self, cost: int) -> None:
        """What it asked for costs more than a frame."""
        if self.guard is not None:
            self.guard.charge(cost)

    def check_unread(self) -> None:
        """It is to get a descriptor.

        Raises:
            LimitReached: it does not read those that it has got.
        """
        if self.guard is not None:
            self.guard.check_unread()


@dataclass(eq=False, slots=True)
class Registration:
    """A server of this node, for as long as its call of Register lasts."""

    server: node_pb2.Server
    attached: Attached
    context: ServicerContext
    size: int = 0  # of its description, in bytes

    def deliver(self, grant: node_pb2.Grant, fd: Fd) -> bool:
        """Hands the server its end of a connection. False, with the descriptor closed, if it is gone or does not
        read."""
        return self.context.write_now(node_pb2.RegisterReply(grant=grant), [fd])


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a token stands for: who may come, and to whom."""

    server_id: str
    service: str
    caller: node_pb2.Process


class Broker:
    """`address`: HOST:PORT of our own listener, for callers on this node that ask for TCP. `trusted`: uids whose
    processes share memory with one another. `reach`: one of state.reach.POLICIES. `access`: who may do what; default:
    only the rules that are always there. `security`: the node's certificate, with which calls between nodes are
    secured; None for none."""

    def __init__(
        self,
        node: str,
        catalog: Catalog,
        log: Log,
        clock: Callable[[], float],
        trusted: Collection[int] = (),
        reach: str = AUTO,
        access: Access | None = None,
        security: Security | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.node = node
        self.access = access or Access("default", node, log)
        self.security = security
        self.catalog = catalog
        self.links: Links = NoLinks()
        self.address = ""
        self.changed = Waiters()  # the catalog, or the nodes
        self.patient_until = 0.0  # of the clock; until then every introduction waits for a server
        self._log = log
        self._clock = clock
        self._trusted = trusted
        self._reach = reach
        self.ways = Ways(node, log, clock)
        self._registrations: dict[str, Registration] = {}
        self._tokens: Tokens[Introduction] = Tokens()
        self._attached: set[Attached] = set()
        self._connections: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._turn = 0
        self.quotas = quotas or Quotas(clock)
        self.opening = 0  # introductions under way
        self.settled = Waiters()  # one less is

    # -- processes --------------------------------------------------------------------------------

    @property
    def attached(self) -> int:
        """Processes attached at present."""
        return len(self._attached)

    def attach(self, process: node_pb2.Process) -> Attached:
        """A process has come."""
        # What one connection of a process has found out of the ways from there holds for all. A process that the kernel
        # does not show us here has the pid 0.
        known = (one.reach for one in self._attached if one.process.pid == process.pid != 0)
        attached = Attached(process, reach=next(known, None) or Reach(self._reach))
        self._attached.add(attached)
        return attached

    def detach(self, attached: Attached) -> None:
        """It has gone. Its registrations go with its calls."""
        self._attached.discard(attached)
        self._connections -= attached.granted

    # -- servers ----------------------------------------------------------------------------------

    def register(self, attached: Attached, request: node_pb2.RegisterRequest, context: ServicerContext) -> Registration:
        """A server has come.

        Raises:
            LimitReached, InvalidRequest: what is wrong with its names, or that there are too many.
            NotAllowed: the process may not register one of them.
        """
        server = _described(self._id(request.instance), attached.process, request)
        self.access.check_register(attached.process, server.services)
        limits.check("servers of one connection", attached.registered + 1, limits.SERVERS_PER_CONNECTION)
        self.quotas.servers.check(attached.owner)
        size = server.ByteSize()
        self.quotas.catalog.check(attached.owner, size)
        update = self.catalog.put(server)
        self.quotas.servers.take(attached.owner)
        self.quotas.catalog.take(attached.owner, size)
        self._publish(update)
        attached.registered += 1
        attached.charge(limits.COST_REGISTER)
        registration = self._registrations[server.id] = Registration(server, attached, context, size)
        self._log.info(
            "server registered",
            server=server.name,
            id=server.id,
            pid=attached.process.pid,
            services=len(server.services),
        )
        return registration

    def _id(self, instance: str) -> str:
        """As the server wants it to be known, if nobody else has that."""
        if instance and not _INSTANCE.fullmatch(instance):
            raise limits.InvalidRequest(f"a server's instance is 16 to 64 hexadecimal digits, not {instance[:80]!r}")
        server_id = f"{self.node}.{instance}"
        if not instance or server_id in self._registrations:
            return f"{self.node}.{secrets.token_hex(8)}"
        return server_id

    def update(self, registration: Registration, request: node_pb2.RegisterRequest) -> None:
        """A server serves something else now.

        Raises:
            LimitReached, InvalidRequest, NotAllowed: as `register`.
        """
        old, owner = registration.server, registration.attached.owner
        server = _described(old.id, old.process, request)
        self.access.check_register(old.process, server.services)
        size = server.ByteSize()
        if size > registration.size:
            self.quotas.catalog.take(owner, size - registration.size)
        else:
            self.quotas.catalog.give(owner, registration.size - size)
        registration.server, registration.size = server, size
        registration.attached.charge(limits.COST_REGISTER)
        self._publish(self.catalog.put(server))

    def unregister(self, registration: Registration, why: str) -> None:
        """A server has gone."""
        server = registration.server
        if self._registrations.pop(server.id, None) is None:
            return
        registration.attached.registered -= 1
        self.quotas.servers.give(registration.attached.owner)
        self.quotas.catalog.give(registration.attached.owner, registration.size)
        self._forget_turns(server.id)
        update = self.catalog.remove(server.id)
        if update is not None:
            self._publish(update)
        self._log.info("server gone", server=server.name, id=server.id, pid=server.process.pid, reason=why)

    def _publish(self, update: peer_pb2.CatalogUpdate) -> None:
        self.links.tell(update)
        self.changed.progressed()

    def _forget_turns(self, server_id: str) -> None:
        self._turns.pop(server_id, None)
        if self._connections.pop(server_id, 0):
            for attached in self._attached:
                attached.granted.pop(server_id, None)

    def forget_node(self, node: str) -> None:
        """The link with a node is gone, and with it what it serves."""
        for server in self.catalog.servers():
            if server.process.node == node:
                self._forget_turns(server.id)
        self.catalog.forget(node)
        self.changed.progressed()

    def standing(self, services: Collection[str]) -> list[node_pb2.Server]:
        """The servers of these services. One that has changed is another object, also if it has changed back since."""
        return [
            server
            for service in sorted(services)
            for server in (self.catalog.servers(service) if service else self._unnamed())
        ]

    # -- callers ----------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Names of all nodes, ours first."""
        return [self.node, *sorted(self.links.names())]

    def resolve(
        self,
        target: node_pb2.ResolveRequest,
        caller: node_pb2.Process | None,
        identity: str,
        *,
        everywhere: bool = False,
    ) -> list[node_pb2.Candidate]:
        """Candidates for a call, the best first. `caller`: a process of this machine, None for anybody else.
        `identity`: the caller's. Our rules are for our own servers; `everywhere`: for those of other nodes too.

        Raises:
            IpcdError: there is none; the text says why.
        """
        limits.check_name("service", target.service, empty=True)
        limits.check_name("node", target.node, empty=True)
        limits.check_name("server", target.server, empty=True)
        limits.check_name("server id", target.server_id, empty=True)
        decision = self.access.may_call(identity, target.service)
        refusal = "" if decision.allowed else str(decision)
        candidates = choice.rank(
            target,
            self.catalog.servers(target.service) if target.service else self._unnamed(),
            self.node,
            lambda server_id: self._connections[server_id],
            lambda server_id: self._turns.get(server_id, 0),
            lambda server: choice.unshared(caller, server, self._trusted),
            lambda server: refusal if everywhere or server.node == self.node else "",
        )
        if not candidates:
            raise choice.no_server(target, self.nodes())
        return candidates

    def eligible(
        self,
        target: node_pb2.ResolveRequest,
        caller: node_pb2.Process | None,
        identity: str,
        *,
        everywhere: bool = False,
    ) -> list[node_pb2.Candidate]:
        """Those of the candidates that the caller may call, as far as we know.

        Raises:
            IpcdError: as `resolve`.
            NotAllowed: none of them.
        """
        candidates = self.resolve(target, caller, identity, everywhere=everywhere)
        allowed = [candidate for candidate in candidates if not candidate.refusal]
        if not allowed:
            raise self.access.refusal(self.access.may_call(identity, target.service))
        return allowed

    def _unnamed(self) -> list[node_pb2.Server]:
        return [server for server in self.catalog.servers() if "" in server.services]

    async def open(
        self, attached: Attached, target: node_pb2.ResolveRequest, wait: bool
    ) -> tuple[node_pb2.OpenReply, list[Fd]]:
        """Introduces a process of this node to a server. With `wait`, waits until there is one.

        Raises:
            IpcdError: why there is no introduction.
        """
        if not wait:
            left = self.patient_until - self._clock()
            with contextlib.suppress(TimeoutError):
                if left > 0:
                    async with asyncio.timeout(left):
                        return await self.open(attached, target, wait=True)
            return await self._open(attached, target)
        limits.check(
            "calls of one connection that wait for a server", attached.waiting + 1, limits.WAITING_PER_CONNECTION
        )
        self.quotas.waiting.take(attached.owner)
        attached.waiting += 1
        try:
            while True:
                try:
                    return await self._open(attached, target)
                except NodeError:
                    pass
                try:
                    async with asyncio.timeout(None if not self._has_any(attached, target) else _RETRY):
                        await self.changed.wait()
                except TimeoutError:
                    pass
        finally:
            self.quotas.waiting.give(attached.owner)
            attached.waiting -= 1

    def _has_any(self, attached: Attached, target: node_pb2.ResolveRequest) -> bool:
        try:
            return bool(self.resolve(target, attached.process, self.access.of(attached.process)))
        except NodeError:
            return False

    async def _open(self, attached: Attached, target: node_pb2.ResolveRequest) -> tuple[node_pb2.OpenReply, list[Fd]]:
        self.opening += 1
        try:
            return await self._first_taker(attached, target)
        finally:
            self.opening -= 1
            self.settled.progressed()

    async def _first_taker(
        self, attached: Attached, target: node_pb2.ResolveRequest
    ) -> tuple[node_pb2.OpenReply, list[Fd]]:
        attached.charge(limits.COST_OPEN)
        attached.check_unread()
        if target.service not in attached.opened:
            limits.check("services that one connection has called", len(attached.opened) + 1, limits.OPENED)
        refusals: list[str] = []
        denied = True
        asked: set[str] = set()
        candidates = self.eligible(target, attached.process, self.access.of(attached.process))
        for candidate in candidates:
            node = candidate.server.process.node
            if node != self.node:
                if node in asked:
                    continue
                asked.add(node)
            try:
                reply, fds = await self.introduce_to(attached, target, candidate)
            except NotAllowed as error:
                refusals.append(str(error))
            except NodeError as error:
                refusals.append(str(error))
                denied = False
            else:
                attached.opened.add(target.service)
                reply.preferred = sum(candidate.preferred for candidate in candidates)
                reply.node = self.node
                return reply, fds
        if denied:
            raise NotAllowed("; ".join(refusals))
        raise choice.NoServer(f"no server for {target.service} took the caller: {'; '.join(refusals)}")

    async def introduce_to(
        self, attached: Attached, target: node_pb2.ResolveRequest, candidate: node_pb2.Candidate
    ) -> tuple[node_pb2.OpenReply, list[Fd]]:
        """Introduces a process of this node to one of the candidates for `target`. Another node chooses among its own
        servers, as it knows them better: the reply says which one it is.

        Raises:
            NodeError: it does not take the caller, and why.
            NotAllowed: its rules do not let the caller.
            LimitReached: too many tokens wait for their callers.
        """
        node = candidate.server.process.node
        if node == self.node:
            reply, fds = self._introduce_here(attached, target, candidate)
        else:
            try:
                reply, fds = await self._introduce_there(attached, target, candidate), []
            except IpcdError as error:
                kind = NotAllowed if error.code is NotAllowed.code else NodeError
                raise kind(f"node {node}: {error}") from error
        if not fds:
            try:
                fds = await self.ways.make(attached.reach, reply, self.links.connect_back)
            except IpcdError as error:
                raise NodeError(f"node {node}: {error}") from error
        chosen = reply.choice
        self._count(attached, chosen.server.id)
        self._log.debug(
            "introduced",
            service=target.service,
            caller=attached.process.pid,
            server=chosen.server.id,
            transport=choice.NAMES[chosen.transport],
            reason=chosen.reason,
        )
        return reply, fds

    def _introduce_here(
        self, attached: Attached, target: node_pb2.ResolveRequest, candidate: node_pb2.Candidate
    ) -> tuple[node_pb2.OpenReply, list[Fd]]:
        reply = node_pb2.OpenReply(choice=candidate, identity=self.access.of(candidate.server.process))
        reply.choice.chosen = True
        server_id = candidate.server.id
        if candidate.transport == choice.TCP:
            reply.address = self.address
            reply.token = self._issue(server_id, target.service, attached.process)
            return reply, []
        registration = self._registrations.get(server_id)
        if registration is not None:
            try:
                registration.attached.check_unread()
            except limits.LimitReached as error:
                raise NodeError(f"server {server_id} does not take callers: {error}") from error
            try:
                ours, theirs = map(_owned, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
            except OSError as error:
                raise limits.LimitReached(f"node {self.node} can open no connection: {error.strerror}") from error
            grant = node_pb2.Grant(
                caller=attached.process,
                transport=candidate.transport,
                service=target.service,
                identity=self.access.of(attached.process),
            )
            grant.services.extend(self.access.callable_there(grant.identity, grant.service, registration.server))
            if registration.deliver(grant, theirs):
                return reply, [ours]
            ours.close()
        raise NodeError(f"server {server_id} does not take callers")

    async def _introduce_there(
        self, attached: Attached, target: node_pb2.ResolveRequest, candidate: node_pb2.Candidate
    ) -> node_pb2.OpenReply:
        node = candidate.server.process.node
        there = node_pb2.ResolveRequest(
            service=target.service,
            node=node,
            server=target.server,
            transport=choice.TCP,
            server_id=target.server_id,
        )
        answer, address = await self.links.introduce(
            node, peer_pb2.IntroduceRequest(target=there, caller=attached.process)
        )
        server = answer.server
        if (
            len(answer.token) != preamble.TOKEN_SIZE
            or server.process.node != node
            or not 0 < len(server.id) <= ID_MOST
            or len(server.name) > limits.NAME
        ):
            raise NodeError("it answered with no introduction to one of its servers")
        reply = node_pb2.OpenReply(choice=candidate, address=address, token=answer.token)
        reply.choice.server.CopyFrom(server)
        reply.choice.chosen = True
        reply.identity = self.access.of(server.process)
        if self.security is not None:
            # By what the link's other end has shown to be, so is its server.
            reply.tls.CopyFrom(self.security.for_process(attached.process.uid, reply.identity))
        return reply

    def undialed(self, attached: Attached, said: node_pb2.Undialed) -> None:
        """A process could not dial where it was told to.

        Raises:
            LimitReached, InvalidRequest: what is wrong with the node's name.
        """
        self.ways.undialed(attached.reach, said)
        if attached.granted[said.server_id] > 0:
            attached.granted[said.server_id] -= 1
            self._connections[said.server_id] -= 1

    def _took_turn(self, server_id: str) -> None:
        self._turn += 1
        # The last one at the end. Another node may name servers that nobody hears of again: whose turn was longest ago
        # is forgotten, which is the same as being the first to have the next.
        self._turns.pop(server_id, None)
        self._turns[server_id] = self._turn
        if len(self._turns) > limits.TURNS:
            del self._turns[next(iter(self._turns))]

    def _count(self, attached: Attached, server_id: str) -> None:
        self._took_turn(server_id)
        if attached in self._attached:
            attached.granted[server_id] += 1
            self._connections[server_id] += 1

    # -- callers from elsewhere -------------------------------------------------------------------

    def introduce(self, request: peer_pb2.IntroduceRequest) -> peer_pb2.IntroduceReply:
        """Another node asks for an introduction of one of its processes to a server of ours.

        Raises:
            IpcdError: why there is none.
        """
        target = request.target
        own = node_pb2.ResolveRequest(
            service=target.service,
            node=self.node,
            server=target.server,
            transport=choice.TCP,
            server_id=target.server_id,
        )
        server = self.eligible(own, None, self.access.of(request.caller))[0].server
        self._took_turn(server.id)
        return peer_pb2.IntroduceReply(server=server, token=self._issue(server.id, target.service, request.caller))

    def _issue(self, server_id: str, service: str, caller: node_pb2.Process) -> bytes:
        token = secrets.token_bytes(preamble.TOKEN_SIZE)
        # As a part of its message it would keep the memory of all that another node has sent with it.
        known = node_pb2.Process(
            node=caller.node, pid=caller.pid, uid=caller.uid, gid=caller.gid, pidfd_id=caller.pidfd_id
        )
        owner, user = f"node {caller.node}", ""
        if caller.node == self.node:
            owner, user = f"pid {caller.pid}", f"uid {caller.uid}"
        self._tokens.issue(token, Introduction(server_id, service, known), owner, self._clock(), user)
        return token

    def arrived(self, token: bytes, sock: Fd, address: str) -> str:
        """A caller has come with a token: hands the connection to the server, which owns `sock` from then on. Why not,
        in words, if it cannot be; the descriptor is still the caller's of this. Empty if all went well."""
        if self.ways.arrived(token, sock):
            return ""
        introduction = self._tokens.redeem(token, self._clock())
        if introduction is None:
            return "bad-token: it was never issued, was used before, or is too old"
        registration = self._registrations.get(introduction.server_id)
        if registration is None:
            return "no-server: the server has gone"
        grant = node_pb2.Grant(
            caller=introduction.caller,
            transport=choice.TCP,
            service=introduction.service,
            address=address,
            identity=self.access.of(introduction.caller),
        )
        try:
            registration.attached.check_unread()
        except limits.LimitReached as error:
            return f"no-server: the server does not take callers: {error}"
        grant.services.extend(self.access.callable_there(grant.identity, grant.service, registration.server))
        if self.security is not None and introduction.caller.node != self.node:
            # Who shows the token has to be who it was issued for: that it is secret is not enough between machines.
            own = registration.server.process.uid
            grant.tls.CopyFrom(self.security.for_process(own, grant.identity))
        # A copy, so that the caller can still be told if the server does not take it.
        try:
            copy = Fd(os.dup(sock.fileno()))
        except OSError as error:
            return f"no-descriptor: {error.strerror}"
        if not registration.deliver(grant, copy):
            return "no-server: the server does not take callers"
        sock.close()
        return ""


def _described(server_id: str, process: node_pb2.Process, request: node_pb2.RegisterRequest) -> node_pb2.Server:
    return node_pb2.Server(
        id=server_id,
        name=request.name,
        process=process,
        services=checked(request.name, request.services),
        weight=request.weight if request.HasField("weight") else 1,
        spillover=request.spillover,
    )


def _owned(sock: socket.socket) -> Fd:
    return Fd(sock.detach())
