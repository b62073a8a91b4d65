"""Which process makes a caller's connection with a server over TCP, and in what order that is tried. Pure: time is an
argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ipcd import limits

DIRECT: Final = "direct"  # the caller itself dials the server's node
NODE: Final = "node"  # the caller's node dials it
REVERSE: Final = "reverse"  # the server's node dials the caller's

# What the setting `reach` may be: the caller, and where it cannot, the nodes; only the caller; only the nodes.
AUTO: Final = "auto"
POLICIES: Final = (AUTO, DIRECT, NODE)

# Seconds for which a caller is spared a way that failed. Then the path may have changed.
KEPT: Final = 30.0


@dataclass(slots=True)
class _Known:
    why: str  # the caller could not dial, in words
    until: float
    order: list[str] = field(default_factory=lambda: [NODE, REVERSE])  # in which the other ways are tried


class Reach:
    """How one caller reaches each node."""

    def __init__(self, policy: str = AUTO) -> None:
        self.policy = policy
        # Insertion order is order of age, as all are kept equally long.
        self._known: dict[str, _Known] = {}

    def undialed(self, node: str, why: str, now: float) -> None:
        """The caller could not dial that node. What is known of the other ways stays."""
        before = self._known.pop(node, None)
        while len(self._known) >= limits.NODES:
            del self._known[next(iter(self._known))]
        known = self._known[node] = _Known(why, now + KEPT)
        if before is not None:
            known.order = before.order

    def plan(self, node: str, here: bool, now: float) -> list[str]:
        """The ways to try, one after the other. `here`: the server is on the caller's own node."""
        known = self._lookup(node, now)
        if self.policy == DIRECT or (self.policy == AUTO and known is None):
            return [DIRECT]
        if here:
            return [NODE]
        return list(known.order) if known is not None else [NODE, REVERSE]

    def why(self, node: str, now: float) -> str:
        """Why the caller does not dial that node itself."""
        if self.policy == NODE:
            return "the setting reach is node"
        known = self._lookup(node, now)
        return f"the caller could not ({known.why})" if known is not None else ""

    def worked(self, node: str, way: str, now: float) -> None:
        """This way led there: the next connection tries it first."""
        self._move(node, way, 0, now)

    def unfinished(self, node: str, way: str, now: float) -> None:
        """This way took longer than the caller wanted to wait: the next connection tries it last, so that who never
        waits for long finds one that is quick."""
        self._move(node, way, 1, now)

    def failed(self, node: str) -> None:
        """None did: the next connection begins with the first."""
        self._known.pop(node, None)

    def _move(self, node: str, way: str, place: int, now: float) -> None:
        if self.policy == NODE and self._lookup(node, now) is None:
            self.undialed(node, "", now)
        known = self._lookup(node, now)
        if known is not None:
            known.order.remove(way)
            known.order.insert(place, way)

    def _lookup(self, node: str, now: float) -> _Known | None:
        known = self._known.get(node)
        if known is not None and known.until <= now:
            del self._known[node]
            return None
        return known
