"""Who serves what, on every node. Pure.

Each node owns the entries of its own servers, and counts their changes as revisions. Others keep a copy: whole at
first, then changed step by step. A step that does not follow the last one is not taken; the copy stays as it was, and
the owner is asked for the whole again.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import limits


class BadUpdate(IpcdError):
    """A node told what is not its own, or what cannot be."""


def checked(name: str, services: Iterable[str]) -> list[str]:
    """The sorted names of a server's services, which may be given more than once.

    Raises:
        LimitReached, InvalidRequest: what is wrong with them.
    """
    limits.check_name("server", name, empty=True)
    names = sorted(set(services))
    limits.check("services of one server", len(names), limits.SERVICES)
    for service in names:
        limits.check_name("service", service, empty=True)
    return names


class _Copy:
    __slots__ = ("incarnation", "revision", "servers")

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.revision = 0
        self.servers: dict[str, node_pb2.Server] = {}


class Catalog:
    """The catalog as one node has it. Messages given to it and got from it must not be changed."""

    def __init__(self, node: str, limit: int = limits.SERVERS) -> None:
        self.node = node
        self.revision = 0
        self._limit = limit
        self._own: dict[str, node_pb2.Server] = {}
        self._copies: dict[str, _Copy] = {}

    # -- our own ----------------------------------------------------------------------------------

    def put(self, server: node_pb2.Server) -> peer_pb2.CatalogUpdate:
        """Adds a server of this node, or replaces it; what to tell the other nodes.

        Raises:
            LimitReached: there are too many.
        """
        if server.id not in self._own:
            limits.check("servers on one node", len(self._own) + 1, self._limit)
        self._own[server.id] = server
        self.revision += 1
        return peer_pb2.CatalogUpdate(revision=self.revision, servers=[server])

    def remove(self, server_id: str) -> peer_pb2.CatalogUpdate | None:
        """Removes a server of this node; what to tell the other nodes, None if it was not there."""
        if self._own.pop(server_id, None) is None:
            return None
        self.revision += 1
        return peer_pb2.CatalogUpdate(revision=self.revision, removed_ids=[server_id])

    def whole(self) -> peer_pb2.CatalogUpdate:
        """Everything this node owns."""
        return peer_pb2.CatalogUpdate(revision=self.revision, full=True, servers=self._own.values())

    # -- copies -----------------------------------------------------------------------------------

    def apply(self, node: str, incarnation: str, update: peer_pb2.CatalogUpdate) -> bool:
        """Takes what a node tells of itself. False: it does not follow what came before, ask for the whole.

        Raises:
            BadUpdate: it tells of servers that are not its own.
            LimitReached: it has too many servers, or one has too many services.
        """
        if node == self.node:
            raise BadUpdate(f"another node tells of servers of {node!r}")
        copy = self._copies.get(node)
        if copy is None or copy.incarnation != incarnation:
            if not update.full:
                return False
            copy = _Copy(incarnation)
        elif update.full:
            if update.revision < copy.revision:
                return True  # older than what is known: changes have overtaken it
        elif update.revision != copy.revision + 1:
            return update.revision <= copy.revision
        # All of it is checked before any is taken: a copy is never half changed.
        told = {server.id: server for server in update.servers}
        for server_id, server in told.items():
            if server.process.node != node or not server_id:
                raise BadUpdate(f"{node!r} tells of server {server_id!r} on node {server.process.node!r}")
            checked(server.name, server.services)
        known: dict[str, node_pb2.Server] = {} if update.full else copy.servers
        if len(known) + len(told) > self._limit:
            count = len((known.keys() | told.keys()) - set(update.removed_ids))
            limits.check("servers on one node", count, self._limit)
        known.update(told)
        for server_id in update.removed_ids:
            known.pop(server_id, None)
        copy.servers = known
        copy.revision = update.revision
        self._copies[node] = copy
        return True

    def forget(self, node: str) -> bool:
        """The node is gone, and its servers with it. False if there were none."""
        copy = self._copies.pop(node, None)
        return copy is not None and bool(copy.servers)

    # -- questions --------------------------------------------------------------------------------

    def servers(self, service: str = "") -> list[node_pb2.Server]:
        """Servers of a service, or all; own ones first, then by node."""
        found = list(self._own.values())
        for _, copy in sorted(self._copies.items()):
            found += copy.servers.values()
        return [server for server in found if service in server.services] if service else found

    def count(self, node: str) -> int:
        """Servers on a node."""
        if node == self.node:
            return len(self._own)
        copy = self._copies.get(node)
        return len(copy.servers) if copy is not None else 0

    def revision_of(self, node: str) -> int:
        """The revision of what is known of a node."""
        copy = self._copies.get(node)
        return copy.revision if copy is not None else 0
