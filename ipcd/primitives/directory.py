"""Which node keeps a named thing: found among all names, and taken for this node before one is made.

Of several nodes that make a thing of one name at one time, one does: each asks all that it can see before it goes on
(Peer.Claim). Two that are on their way ask each other, and both know that the one whose name comes first wins. Nodes
that cannot see each other do not know of each other's: each may make one, and both stay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import names_pb2, peer_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Ambiguous, BadRequest, Elsewhere

from ipcd import limits
from ipcd.log import Log
from ipcd.registry import Registry
from ipcd.state.names import Key
from ipcd.state.primitives import SERVICE_OF
from ipcd.state.quota import Owner


class Directory:
    """Of one node. `wall`: seconds since the epoch."""

    def __init__(self, registry: Registry, log: Log, wall: Callable[[], float] = time.time) -> None:
        self.node = registry.node
        self._registry = registry
        self._names = registry.catalog.names
        self._log = log
        self._wall = wall
        self._owners: dict[Key, Owner | None] = {}
        self._taking: dict[Key, asyncio.Future[None]] = {}
        self._yielded: dict[Key, str] = {}  # of those that are being taken: to whom
        registry.on_claim = self.claimed

    # -- finding ----------------------------------------------------------------------------------

    def find(self, kind: str, text: str) -> str:
        """The node that keeps the thing that `text`, NAME or NAME@NODE, stands for; "" if there is none.

        Raises:
            Ambiguous: several do.
            BadRequest: it is no name.
        """
        if kind not in SERVICE_OF:
            raise BadRequest(f"there are no things of the kind {kind!r}; there are {', '.join(sorted(SERVICE_OF))}")
        name, node = naming.parse(kind, text)
        if node:
            return node
        homes = self._names.homes((kind, name))
        if len(homes) > 1:
            several = " and ".join(f"{name}@{home}" for home in homes)
            raise Ambiguous(f"there are several of the name: {kind}s {several}; say which")
        return homes[0] if homes else ""

    def all(self, kind: str = "") -> list[names_pb2.Name]:
        """What there is, on all nodes."""
        return self._names.all(kind)

    # -- keeping ----------------------------------------------------------------------------------

    async def take(self, kind: str, text: str, uid: int, owner: Owner | None = None) -> str:
        """Sees to it that a thing is kept here, with a name that no other node in sight has, except where `text` is
        NAME@NODE of this node: its name. Nothing happens if it is kept here already. `owner`: whose quota it counts
        for; None for nobody's.

        Raises:
            Elsewhere: another node keeps it, or makes it now.
            LimitReached: there are too many.
            BadRequest: it is no name.
        """
        name, node = naming.parse(kind, text)
        if node not in {"", self.node}:
            raise Elsewhere(node)
        key = (kind, name)
        while key in self._taking:
            await asyncio.wait({self._taking[key]})
        if self._names.has(key):
            return name
        if owner is not None:
            self._registry.quotas.names.check(owner)
        if not node:
            await self._claim(key)
        # Not again until it is made: nothing is awaited in between. Others may have come first while it was.
        if owner is not None:
            self._registry.quotas.names.take(owner)
        try:
            made = names_pb2.Name(kind=kind, name=name, uid=uid, created=self._wall())
            update = self._registry.catalog.put_name(made)
        except BaseException:
            if owner is not None:
                self._registry.quotas.names.give(owner)
            raise
        self._owners[key] = owner
        self._registry.links.tell(update)
        self._log.info("made", kind=kind, name=name, uid=uid)
        return name

    def restored(self, kind: str, name: str, uid: int, created: float) -> None:
        """A thing was kept here before the daemon was started, and still is.

        Raises:
            LimitReached: there are too many.
        """
        update = self._registry.catalog.put_name(names_pb2.Name(kind=kind, name=name, uid=uid, created=created))
        self._owners[kind, name] = None
        self._registry.links.tell(update)

    def drop(self, kind: str, name: str) -> None:
        """It is not kept here any more."""
        key = (kind, name)
        update = self._registry.catalog.remove_name(key)
        if update is None:
            return
        owner = self._owners.pop(key, None)
        if owner is not None:
            self._registry.quotas.names.give(owner)
        self._registry.links.tell(update)
        self._log.info("removed", kind=kind, name=name)

    def spare(self, kind: str, names: Iterable[str], owner: Owner) -> str:
        """The first of these things that are kept here without which their owner may make another; "" if there is none.
        It is one that the same user has made, or where nobody knows of users (clients of another node's gateway), the
        very same owner: nobody has to make room for somebody else."""
        theirs = ((name, self._owners.get((kind, name)) or ()) for name in names)
        if all(key.kind != "uid" for key in owner):
            return next((name for name, made_by in theirs if made_by == owner), "")
        needed = self._registry.quotas.names.full(owner) | {key for key in owner if key.kind != "process"}
        return next((name for name, made_by in theirs if needed <= {*made_by}), "")

    async def _claim(self, key: Key) -> None:
        kind, name = key
        homes = [home for home in self._names.homes(key) if home != self.node]
        if homes:
            raise Elsewhere(homes[0])
        links = self._registry.links
        nodes = links.names()
        if not nodes:
            return
        taking = self._taking[key] = asyncio.get_running_loop().create_future()
        try:
            request = peer_pb2.ClaimRequest(kind=kind, name=name)
            answers = await asyncio.gather(*(self._ask(node, request) for node in nodes))
            holders = sorted({answer for answer in (*answers, self._yielded.get(key, "")) if answer})
            if holders:
                raise Elsewhere(holders[0])
        finally:
            del self._taking[key]
            self._yielded.pop(key, None)
            taking.set_result(None)

    async def _ask(self, node: str, request: peer_pb2.ClaimRequest) -> str:
        try:
            async with asyncio.timeout(limits.CLAIM):
                return await self._registry.links.claim(node, request)
        except (IpcdError, TimeoutError) as error:
            # It cannot be seen: what it has, it has beside this one.
            self._log.debug("a node was not asked for a name", peer=node, reason=error)
            return ""

    def claimed(self, by: str, request: peer_pb2.ClaimRequest) -> str:
        """Another node wants to make a thing: who has something against it, or ""."""
        key = (request.kind, request.name)
        if self._names.has(key):
            return self.node
        if key in self._taking:
            if self.node < by:
                return self.node
            # It may have been asked before it wanted to, so that only this end knows of both.
            self._yielded[key] = min(by, self._yielded.get(key, by))
        return ""
