"""Keeps count of who is there: processes attached, servers registered here and told of to the other nodes, and how many
callers each server has been given.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection

from ipcd_client.aio.context import ServicerContext
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, signal_pb2

from ipcd import limits
from ipcd.access import Access
from ipcd.log import Log
from ipcd.parties import Attached, Links, NoLinks, Registration, Taker
from ipcd.quota import Quotas
from ipcd.state.catalog import Catalog, checked
from ipcd.state.primitives import SERVICES, described
from ipcd.state.reach import AUTO, Reach

_INSTANCE = re.compile("[0-9a-f]{16,64}")


class Registry:
    """What `Broker` chooses from. `reach`: one of state.reach.POLICIES. `access`: who may do what; default: only the
    rules that are always there."""

    def __init__(
        self,
        node: str,
        catalog: Catalog,
        log: Log,
        clock: Callable[[], float],
        reach: str = AUTO,
        access: Access | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.node = node
        self.access = access or Access("default", node, log)
        self.catalog = catalog
        self.links: Links = NoLinks()
        self.changed = Waiters()  # the catalog, or the nodes
        # What a claim of a linked node is answered (Peer.Claim), who has something against it.
        self.on_claim: Callable[[str, peer_pb2.ClaimRequest], str] = lambda _node, _request: ""
        # What is done about a flag that a linked node's process raises (Peer.Raise).
        self.on_raise: Callable[[str, peer_pb2.PeerRaiseRequest], signal_pb2.Told] = _deaf
        # Told of what a linked node asks about those who wait for locks here (Peer.Chase).
        self.on_chase: Callable[[str, peer_pb2.ChaseRequest], None] = lambda _node, _request: None
        self.quotas = quotas or Quotas(clock)
        self._log = log
        self._reach = reach
        self._registrations: dict[str, Registration] = {}
        self.own: Taker | None = None  # the daemon's own server: of the primitives
        self._others: dict[str, node_pb2.Server] = {}  # the same of linked nodes
        self._attached: set[Attached] = set()
        self._connections: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._turn = 0

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
        self.access.check_register(server)
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
        self.access.check_register(server)
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

    def taker(self, server_id: str) -> Taker | None:
        """A server of this node; None if it has gone."""
        if self.own is not None and self.own.server.id == server_id:
            return self.own
        return self._registrations.get(server_id)

    def callable_at(self, grant: node_pb2.Grant, taker: Taker) -> list[str]:
        """What of a server's services the caller may call; nothing where the server need not look."""
        # What the daemon keeps it judges itself, call by call.
        if taker is self.own:
            return []
        return self.access.callable_there(grant, taker.server)

    def serving(self, service: str) -> list[node_pb2.Server]:
        """The servers of a service, on all nodes; those of no service in particular if it is empty."""
        if service in SERVICES:
            return self._daemons()
        if service:
            return self.catalog.servers(service)
        return [server for server in self.catalog.servers() if "" in server.services]

    def _daemons(self) -> list[node_pb2.Server]:
        """The daemons, which serve the primitives, of this node and the linked ones. They are in no catalog: each is
        known to be there."""
        if self.own is None:
            return []
        found = [self.own.server]
        for node in sorted(self.links.names()):
            if node not in self._others:
                self._others[node] = described(node_pb2.Process(node=node))
            found.append(self._others[node])
        return found

    def standing(self, services: Collection[str]) -> list[node_pb2.Server]:
        """The servers of these services. One that has changed is another object, also if it has changed back since."""
        return [server for service in sorted(services) for server in self.serving(service)]

    def _publish(self, update: peer_pb2.CatalogUpdate) -> None:
        self.links.tell(update)
        self.changed.progressed()

    def forget_node(self, node: str) -> None:
        """The link with a node is gone, and with it what it serves."""
        for server in self.catalog.servers():
            if server.process.node == node:
                self._forget_turns(server.id)
        self.catalog.forget(node)
        self._others.pop(node, None)
        self.changed.progressed()

    # -- turns and counts -------------------------------------------------------------------------

    def connections(self, server_id: str) -> int:
        """How many connections with a server were granted to processes that are attached."""
        return self._connections[server_id]

    def last_turn(self, server_id: str) -> int:
        """When a server had its last turn, as a number that grows with each; 0 if nobody knows."""
        return self._turns.get(server_id, 0)

    def took_turn(self, server_id: str) -> None:
        """A server was given a caller."""
        self._turn += 1
        # The last one at the end. Another node may name servers that nobody hears of again: whose turn was longest ago
        # is forgotten, which is the same as being the first to have the next.
        self._turns.pop(server_id, None)
        self._turns[server_id] = self._turn
        if len(self._turns) > limits.TURNS:
            del self._turns[next(iter(self._turns))]

    def granted(self, attached: Attached, server_id: str) -> None:
        """A process was given a connection with a server."""
        self.took_turn(server_id)
        if attached in self._attached:
            attached.granted[server_id] += 1
            self._connections[server_id] += 1

    def returned(self, attached: Attached, server_id: str) -> None:
        """A connection that was granted to a process did not come about."""
        if attached.granted[server_id] > 0:
            attached.granted[server_id] -= 1
            self._connections[server_id] -= 1

    def _forget_turns(self, server_id: str) -> None:
        self._turns.pop(server_id, None)
        if self._connections.pop(server_id, 0):
            for attached in self._attached:
                attached.granted.pop(server_id, None)


def _deaf(_node: str, _request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
    return signal_pb2.Told()


def _described(server_id: str, process: node_pb2.Process, request: node_pb2.RegisterRequest) -> node_pb2.Server:
    return node_pb2.Server(
        id=server_id,
        name=request.name,
        process=process,
        services=checked(request.name, request.services),
        weight=request.weight if request.HasField("weight") else 1,
        spillover=request.spillover,
    )
