"""What a node says over its links, and what it makes of what it hears there. Pure.

Over each link both ends tell of their own servers, whole at first and then change by change, and of the nodes they
know. What a slow link has not taken is not queued without bound: it gets the whole again instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import peer_pb2

from ipcd import limits
from ipcd.state import members as state
from ipcd.state.catalog import BadUpdate, Catalog
from ipcd.state.members import Link, Members

# Changes that wait for a slow link; then it gets the whole.
QUEUED: Final = 256
# Links over which a node says again which others it knows, on average, each time that it does.
RETOLD: Final = 4
# Links up to which every node tells every other of those that come, whoever else does.
FEW: Final = 16


class Outbox:
    """What waits to be told over one link. `wake`: called when there is something."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._changes: deque[peer_pb2.LinkMessage] = deque()
        self._whole = True
        self._resync = False
        self._known: dict[str, peer_pb2.KnownNode] = {}

    def tell(self, change: peer_pb2.LinkMessage) -> None:
        """Queues a change of our own servers."""
        if len(self._changes) < QUEUED:
            self._changes.append(change)
            self._wake()
        else:
            self.tell_whole()

    def tell_whole(self) -> None:
        """Queues all of our own servers."""
        self._changes.clear()
        self._whole = True
        self._wake()

    def tell_known(self, nodes: Iterable[peer_pb2.KnownNode]) -> None:
        """Queues that we know these nodes. Of each node the last word is told."""
        for known in nodes:
            self._known[known.node] = known
        self._wake()

    def ask_whole(self) -> None:
        """Queues that we want all of its servers."""
        self._resync = True
        self._wake()

    def next(self, whole: Callable[[], peer_pb2.CatalogUpdate]) -> peer_pb2.LinkMessage | None:
        """What to tell next; it must not be changed."""
        if self._resync:
            self._resync = False
            return peer_pb2.LinkMessage(resync=peer_pb2.ResyncRequest())
        if self._whole:
            self._whole = False
            return peer_pb2.LinkMessage(update=whole())
        if self._changes:
            return self._changes.popleft()
        if self._known:
            nodes, self._known = self._known, {}
            return peer_pb2.LinkMessage(known=peer_pb2.KnownNodes(nodes=nodes.values()))
        return None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message has changed: the catalog, and which nodes may be looked for."""

    catalog: bool = False
    nodes: Sequence[peer_pb2.KnownNode] = ()


_NOTHING: Final = Heard()
_CHANGED: Final = Heard(catalog=True)


class Exchange:
    """What is said over all links of a node.

    `check_address`: raises `IpcdError` where a text is no HOST:PORT.
    """

    def __init__(self, members: Members, catalog: Catalog, check_address: Callable[[str], object]) -> None:
        self._members = members
        self._catalog = catalog
        self._check_address = check_address
        self._outboxes: dict[Link, Outbox] = {}

    def linked(self, link: Link, wake: Callable[[], None]) -> Outbox:
        """A link is up: what is to be said over it. It replaces any other with that node."""
        entry = self._members.addresses.get(link.address)
        told = entry is not None and entry.incarnation == link.incarnation and state.LEARNED in entry.sources
        self._members.linked(link)
        outbox = Outbox(wake)
        # Whoever told us of it tells it and the others the same. With few nodes it is said again, and so known at once
        # even where not all can reach each other; with many that would be more than all else.
        if not told or len(self._outboxes) < FEW:
            outbox.tell_known(self._known_to(link))
            if link.address:
                news = [state.known(link)]
                for other in self._outboxes.values():
                    other.tell_known(news)
        self._outboxes[link] = outbox
        return outbox

    def unlinked(self, link: Link, now: float) -> bool:
        """A link is gone. False if it had been replaced: the node is still there, and what is known of its servers."""
        self._outboxes.pop(link, None)
        return self._members.unlinked(link, now)

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Tells every node of a change of our own servers."""
        if self._outboxes:
            change = peer_pb2.LinkMessage(update=update)
            for outbox in self._outboxes.values():
                outbox.tell(change)

    def retell(self, link: Link, chance: float) -> None:
        """Says again which nodes we know, over few of many links. `chance`: random, from 0 to 1."""
        if chance * len(self._outboxes) <= RETOLD:
            self._outboxes[link].tell_known(self._known_to(link))

    def hear(self, link: Link, message: peer_pb2.LinkMessage) -> Heard:
        """A message has come over a link.

        Raises:
            BadUpdate, LimitReached: it is not what a node may say.
        """
        kind = message.WhichOneof("message")
        if kind == "update":
            if self._members.links.get(link.node) is not link:
                return _NOTHING  # replaced: the other link tells it
            if self._catalog.apply(link.node, link.incarnation, message.update):
                return _CHANGED
            self._outboxes[link].ask_whole()
        elif kind == "resync":
            self._outboxes[link].tell_whole()
        elif kind == "known":
            return Heard(nodes=self._learned(link, message.known.nodes))
        elif kind == "hello":
            raise BadUpdate(f"node {link.node} said hello twice")
        return _NOTHING

    def _known_to(self, link: Link) -> Iterable[peer_pb2.KnownNode]:
        return (known for known in self._members.known() if known.node != link.node)

    def _learned(self, link: Link, nodes: Sequence[peer_pb2.KnownNode]) -> list[peer_pb2.KnownNode]:
        learned = []
        for known in nodes[: limits.NODES]:
            if known.incarnation == self._members.incarnation or known.node == link.node:
                continue
            linked = self._members.links.get(known.node)
            if linked is not None and linked.incarnation == known.incarnation:
                continue
            try:
                limits.check_name("node", known.node)
                limits.check_name("incarnation", known.incarnation)
                self._check_address(known.address)
            except IpcdError as error:
                raise BadUpdate(f"node {link.node} tells of a node at {known.address!r}: {error}") from error
            learned.append(known)
        return learned
