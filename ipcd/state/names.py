"""Which named things there are, on every node. Pure.

Each node owns the names of what it keeps; others have copies, told over the links with the catalog (state/catalog.py).
A name that two nodes made while they could not see each other stands for two things: they are shown, and never merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import names_pb2

from ipcd import limits

# A kind, and a name of that kind.
Key = tuple[str, str]
# Characters of a kind's name.
KIND_MOST: Final = 16


class BadName(IpcdError):
    """A node told of a name that cannot be."""


class Names:
    """The names as one node has them. Messages given to it and got from it must not be changed."""

    def __init__(self, node: str, limit: int = limits.NAMES) -> None:
        self.node = node
        self._limit = limit
        self._by_node: dict[str, dict[Key, names_pb2.Name]] = {node: {}}
        self._homes: dict[Key, list[str]] = {}

    def put(self, name: names_pb2.Name) -> None:
        """One more is kept here.

        Raises:
            LimitReached: there are too many.
        """
        own = self._by_node[self.node]
        key = (name.kind, name.name)
        if key not in own:
            limits.check("named things on one node", len(own) + 1, self._limit)
            self._homes.setdefault(key, []).insert(0, self.node)
        own[key] = name

    def remove(self, key: Key) -> bool:
        """It is not kept here any more. False if it was not."""
        if self._by_node[self.node].pop(key, None) is None:
            return False
        self._gone(key, self.node)
        return True

    def has(self, key: Key) -> bool:
        """Whether it is kept here."""
        return key in self._by_node[self.node]

    def homes(self, key: Key) -> list[str]:
        """The nodes that keep such a thing, this one first, then by name."""
        found = self._homes.get(key, [])
        return sorted(found, key=lambda node: (node != self.node, node))

    def own(self) -> Iterable[names_pb2.Name]:
        """Those kept here."""
        return self._by_node[self.node].values()

    def all(self, kind: str = "") -> list[names_pb2.Name]:
        """All, or those of a kind, by kind, name and node. Each says on which node it is."""
        return sorted(self._each(kind), key=lambda name: (name.kind, name.name, name.node))

    def _each(self, kind: str) -> Iterator[names_pb2.Name]:
        for node, names in self._by_node.items():
            for name in names.values():
                if not kind or name.kind == kind:
                    shown = names_pb2.Name()
                    shown.CopyFrom(name)
                    shown.node = node
                    yield shown

    # -- copies -----------------------------------------------------------------------------------

    def checked(
        self, node: str, told: Sequence[names_pb2.Name], removed: Sequence[Key], *, full: bool
    ) -> dict[Key, names_pb2.Name]:
        """What there is on a node after what it has told; to be taken by `take`.

        Raises:
            BadName: one cannot be.
            LimitReached: there are too many, or one is too long.
        """
        before = self._by_node.get(node, {})
        if not (told or removed or full):
            return before
        names = {} if full else dict(before)
        for name in told:
            if not 0 < len(name.kind) <= KIND_MOST or not name.kind.isalpha():
                raise BadName(f"node {node} tells of a name of the kind {name.kind[:KIND_MOST]!r}")
            limits.check_name(name.kind, name.name)
            names[name.kind, name.name] = names_pb2.Name(
                kind=name.kind, name=name.name, uid=name.uid, created=name.created
            )
        for key in removed:
            names.pop(key, None)
        limits.check("named things on one node", len(names), self._limit)
        return names

    def take(self, node: str, names: dict[Key, names_pb2.Name]) -> None:
        """These are a node's from now on."""
        before = self._by_node.get(node, {})
        for key in before.keys() - names.keys():
            self._gone(key, node)
        for key in names.keys() - before.keys():
            self._homes.setdefault(key, []).append(node)
        if names:
            self._by_node[node] = names
        else:
            self._by_node.pop(node, None)

    def forget(self, node: str) -> None:
        """The node cannot be seen any more."""
        self.take(node, {})

    def _gone(self, key: Key, node: str) -> None:
        homes = self._homes[key]
        homes.remove(node)
        if not homes:
            del self._homes[key]
