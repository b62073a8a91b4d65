"""Introduces callers to servers: chooses one, connects the two, and is out of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ipcd_client.errors import IpcdError, NodeError, NotAllowed
from ipcd_client.frame import preamble
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.access import Access
from ipcd.arrivals import Arrivals
from ipcd.log import Log
from ipcd.parties import Attached
from ipcd.quota import Quotas
from ipcd.registry import Registry
from ipcd.state import choice
from ipcd.state.catalog import ID_MOST, Catalog
from ipcd.state.primitives import SERVICES
from ipcd.state.reach import AUTO
from ipcd.ways import Ways

if TYPE_CHECKING:
    from ipcd.security import Security

_NOT_SHARED = "the daemon shares no memory"
# Seconds until servers that could not take a caller are asked again.
_RETRY = 0.05


class Broker(Registry):
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
        super().__init__(node, catalog, log, clock, reach, access, quotas)
        self.security = security
        self.address = ""
        self.patient_until = 0.0  # of the clock; until then every introduction waits for a server
        self.ways = Ways(node, log, clock)
        self.opening = 0  # introductions under way
        self.settled = Waiters()  # one less is
        self._clock = clock
        self._trusted = trusted
        self.arrivals = Arrivals(self, self.ways, security, clock)

    # -- callers ----------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Names of all nodes, ours first."""
        return [self.node, *sorted(self.links.names())]

    def resolve(
        self,
        target: node_pb2.ResolveRequest,
        caller: node_pb2.Process | None,
        identities: tuple[str, ...],
        *,
        everywhere: bool = False,
    ) -> list[node_pb2.Candidate]:
        """Candidates for a call, the best first. `caller`: a process of this machine, None for anybody else.
        `identities`: the caller's, and for whom it calls. Our rules are for our own servers; `everywhere`: for those of
        other nodes too.

        Raises:
            IpcdError: there is none; the text says why.
        """
        limits.check_name("service", target.service, empty=True)
        limits.check_name("node", target.node, empty=True)
        limits.check_name("server", target.server, empty=True)
        limits.check_name("server id", target.server_id, empty=True)
        # Of the primitives the rules are about the names, which the daemons look at.
        own = target.service in SERVICES

        def refusal(server: node_pb2.Server) -> str:
            if own or not (everywhere or server.process.node == self.node):
                return ""
            against = self.access.against_call(identities, target.service, server.name)
            return "" if against is None else str(against)

        candidates = choice.rank(
            target,
            self.serving(target.service),
            self.node,
            self.connections,
            self.last_turn,
            lambda server: _NOT_SHARED if own else choice.unshared(caller, server, self._trusted),
            refusal,
        )
        if not candidates:
            raise choice.no_server(target, self.nodes())
        return candidates

    def eligible(
        self,
        target: node_pb2.ResolveRequest,
        caller: node_pb2.Process | None,
        identities: tuple[str, ...],
        *,
        everywhere: bool = False,
    ) -> list[node_pb2.Candidate]:
        """Those of the candidates that the caller may call, as far as we know.

        Raises:
            IpcdError: as `resolve`.
            NotAllowed: none of them.
        """
        candidates = self.resolve(target, caller, identities, everywhere=everywhere)
        allowed = [candidate for candidate in candidates if not candidate.refusal]
        if not allowed:
            against = self.access.against_call(identities, target.service, candidates[0].server.name)
            assert against is not None
            raise self.access.refusal(against)
        return allowed

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
            return bool(self.resolve(target, attached.process, (self.access.of(attached.process),)))
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
        candidates = self.eligible(target, attached.process, (self.access.of(attached.process),))
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
        self.granted(attached, chosen.server.id)
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
            reply.token = self.arrivals.expect(server_id, target.service, attached.process, attached.called_for)
            return reply, []
        taker = self.taker(server_id)
        if taker is not None:
            try:
                taker.check_unread()
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
                identity=attached.called_for or self.access.of(attached.process),
            )
            grant.services.extend(self.callable_at(grant, taker))
            if taker.deliver(grant, theirs):
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
            node, peer_pb2.IntroduceRequest(target=there, caller=attached.process, called_for=attached.called_for)
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
            # As the daemon nobody but itself shows itself; its user may have other processes.
            uid = None if answer.as_daemon and attached.process.daemon else attached.process.uid
            reply.tls.CopyFrom(self.security.for_process(uid, reply.identity))
        return reply

    def undialed(self, attached: Attached, said: node_pb2.Undialed) -> None:
        """A process could not dial where it was told to.

        Raises:
            LimitReached, InvalidRequest: what is wrong with the node's name.
        """
        self.ways.undialed(attached.reach, said)
        self.returned(attached, said.server_id)

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
        caller, called_for = request.caller, request.called_for
        server = self.eligible(own, None, self.access.all_of(caller, called_for))[0].server
        self.took_turn(server.id)
        return peer_pb2.IntroduceReply(
            server=server,
            token=self.arrivals.expect(server.id, target.service, caller, called_for),
            as_daemon=caller.daemon,
        )


def _owned(sock: socket.socket) -> Fd:
    return Fd(sock.detach())
