"""Who serves what, on every node, and which named things it keeps (names.py). Pure.

Each node owns the entries of its own servers and things, and counts their changes as revisions. Others keep a copy:
whole at first, then changed step by step. A step that does not follow the last one is not taken; the copy stays as it
was, and the owner is asked for the whole again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import names_pb2, node_pb2, peer_pb2

from ipcd import limits
from ipcd.state.names import BadName, Key, Names

# Characters of a server's id: its node's name, and the digits that it chose.
ID_MOST: Final = 2 * limits.NAME


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


def _of_its_own(server: node_pb2.Server) -> node_pb2.Server:
    """A part of a message keeps the memory of all that came with it, which may be a thousand times as much."""
    copy = node_pb2.Server()
    copy.CopyFrom(server)
    copy.DiscardUnknownFields()
    return copy


class _Copy:
    __slots__ = ("incarnation", "revision", "servers", "size")

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.revision = 0
        self.servers: dict[str, node_pb2.Server] = {}
        self.size = 0  # of these, in bytes


class Catalog:
    """The catalog as one node has it. Messages given to it and got from it must not be changed."""

    def __init__(self, node: str, limit: int = limits.SERVERS) -> None:
        self.node = node
        self.revision = 0
        self._limit = limit
        self._own: dict[str, node_pb2.Server] = {}
        self._copies: dict[str, _Copy] = {}
        self._copied = 0  # bytes of all copies
        # By service, and then by node and id, as no node answers for the ids of another. It is asked for with each
        # introduction, however many others there are.
        self._by_service: dict[str, dict[tuple[str, str], node_pb2.Server]] = {}
        self._came: dict[tuple[str, str], int] = {}  # in which order
        self._count = 0
        self.names = Names(node)

    # -- our own ----------------------------------------------------------------------------------

    def put(self, server: node_pb2.Server) -> peer_pb2.CatalogUpdate:
        """Adds a server of this node, or replaces it; what to tell the other nodes.

        Raises:
            LimitReached: there are too many.
        """
        if server.id not in self._own:
            limits.check("servers on one node", len(self._own) + 1, self._limit)
        self._index(self._own.get(server.id), server)
        self._own[server.id] = server
        self.revision += 1
        return peer_pb2.CatalogUpdate(revision=self.revision, servers=[server])

    def remove(self, server_id: str) -> peer_pb2.CatalogUpdate | None:
        """Removes a server of this node; what to tell the other nodes, None if it was not there."""
        gone = self._own.pop(server_id, None)
        if gone is None:
            return None
        self._index(gone, None)
        self.revision += 1
        return peer_pb2.CatalogUpdate(revision=self.revision, removed_ids=[server_id])

    def put_name(self, name: names_pb2.Name) -> peer_pb2.CatalogUpdate:
        """Adds a named thing of this node; what to tell the other nodes.

        Raises:
            LimitReached: there are too many.
        """
        self.names.put(name)
        self.revision += 1
        return peer_pb2.CatalogUpdate(revision=self.revision, names=[name])

    def remove_name(self, key: Key) -> peer_pb2.CatalogUpdate | None:
        """Removes a named thing of this node; what to tell the other nodes, None if it was not there."""
        if not self.names.remove(key):
            return None
        self.revision += 1
        kind, name = key
        return peer_pb2.CatalogUpdate(revision=self.revision, removed_names=[peer_pb2.NameKey(kind=kind, name=name)])

    def whole(self) -> peer_pb2.CatalogUpdate:
        """Everything this node owns."""
        return peer_pb2.CatalogUpdate(
            revision=self.revision, full=True, servers=self._own.values(), names=self.names.own()
        )

    # -- copies -----------------------------------------------------------------------------------

    def apply(self, node: str, incarnation: str, update: peer_pb2.CatalogUpdate) -> bool:
        """Takes what a node tells of itself. False: it does not follow what came before, ask for the whole.

        Raises:
            BadUpdate: it tells of servers that are not its own, or of names that cannot be.
            LimitReached: it has too many servers or names, or one has too many services.
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
        told = {server.id: _of_its_own(server) for server in update.servers}
        for server_id, server in told.items():
            if server.process.node != node or not 0 < len(server_id) <= ID_MOST:
                raise BadUpdate(
                    f"{node!r} tells of server {server_id[:ID_MOST]!r} on node {server.process.node[:ID_MOST]!r}"
                )
            checked(server.name, server.services)
        names = self._names_after(node, update)
        known: dict[str, node_pb2.Server] = {} if update.full else copy.servers
        if len(known) + len(told) > self._limit:
            count = len((known.keys() | told.keys()) - set(update.removed_ids))
            limits.check("servers on one node", count, self._limit)
        gone = (told.keys() | set(update.removed_ids)) & known.keys()
        size = 0 if update.full else copy.size - sum(known[server_id].ByteSize() for server_id in gone)
        size += sum(server.ByteSize() for server_id, server in told.items() if server_id not in update.removed_ids)
        limits.check("bytes of servers' descriptions of one node", size, limits.CATALOG)
        before = self._copies.get(node)
        copied = self._copied - (before.size if before is not None else 0) + size
        limits.check("bytes of other nodes' servers' descriptions", copied, limits.COPIES)
        if update.full and before is not None:
            for server in before.servers.values():
                self._index(server, None)
        for server_id, server in told.items():
            self._index(known.get(server_id), server)
            known[server_id] = server
        for server_id in update.removed_ids:
            self._index(known.pop(server_id, None), None)
        self.names.take(node, names)
        self._copied = copied
        copy.servers, copy.size = known, size
        copy.revision = update.revision
        self._copies[node] = copy
        return True

    def _names_after(self, node: str, update: peer_pb2.CatalogUpdate) -> dict[Key, names_pb2.Name]:
        removed = [(key.kind, key.name) for key in update.removed_names]
        try:
            return self.names.checked(node, update.names, removed, full=update.full)
        except BadName as error:
            raise BadUpdate(str(error)) from error

    def forget(self, node: str) -> bool:
        """The node is gone, and its servers with it. False if there were none."""
        self.names.forget(node)
        copy = self._copies.pop(node, None)
        if copy is None:
            return False
        self._copied -= copy.size
        for server in copy.servers.values():
            self._index(server, None)
        return bool(copy.servers)

    # -- questions --------------------------------------------------------------------------------

    def servers(self, service: str = "") -> list[node_pb2.Server]:
        """Servers of a service, or all; own ones first, then by node."""
        if service:
            found = list(self._by_service.get(service, {}).values())
            if len(found) > 1:
                found.sort(key=self._place)
            return found
        found = list(self._own.values())
        for _, copy in sorted(self._copies.items()):
            found += copy.servers.values()
        return found

    def _place(self, server: node_pb2.Server) -> tuple[bool, str, int]:
        return server.process.node != self.node, server.process.node, self._came[_key(server)]

    def _index(self, old: node_pb2.Server | None, new: node_pb2.Server | None) -> None:
        """One takes the place of the other."""
        if old is not None:
            staying = frozenset(new.services) if new is not None else frozenset()
            for service in old.services:
                of_service = self._by_service.get(service)
                if service not in staying and of_service is not None:
                    of_service.pop(_key(old), None)
                    if not of_service:
                        del self._by_service[service]
            if new is None:
                self._came.pop(_key(old), None)
        if new is not None:
            if old is None:
                self._count += 1
                self._came[_key(new)] = self._count
            for service in new.services:
                self._by_service.setdefault(service, {})[_key(new)] = new

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


def _key(server: node_pb2.Server) -> tuple[str, str]:
    return server.process.node, server.id
