"""The connections of one channel with the servers of one service, and which of them gets the next call. Pure.

Those near take the calls; one with a spillover that has so many calls in flight shares them with those on other nodes.
Among equals the one with the fewest calls in flight for its weight, as this channel counts them, then the one whose
turn it is. A server of weight 2 has twice as many turns as one of weight 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

from ipcd_client.pb.ipcd.v1 import node_pb2

# Servers of one service that a channel has connections with, unless the option ipcd.spread says otherwise.
SPREAD: Final = 8
# Seconds for asking the node how they stand, and for each connection that is made then.
REFRESH: Final = 2.0


class Connection(Protocol):
    """What is needed of a driver's connection here."""

    @property
    def usable(self) -> bool:
        """New calls may be made."""

    @property
    def load(self) -> int:
        """Calls in flight."""


class Route(Protocol):
    """A connection with a server."""

    @property
    def connection(self) -> Connection:
        """The connection."""

    @property
    def server(self) -> node_pb2.Server:
        """As the node described it."""


R = TypeVar("R", bound=Route)


class _Share(Generic[R]):
    __slots__ = ("connection", "far", "route", "spillover", "turn", "weight")

    def __init__(self, route: R, here: str) -> None:
        self.route = route
        self.connection = route.connection
        self.turn = 0.0
        self.describe(route.server, here)

    def describe(self, server: node_pb2.Server, here: str) -> None:
        # One of weight 0 is here only where there is no other.
        self.weight = server.weight or 1
        self.spillover = server.spillover
        self.far = bool(here) and server.process.node != here


class Pool(Generic[R]):
    """`only` is the route if there is just one: the shortest way. Threads may pick at the same time: what they race for
    is whose turn it is. Whoever changes the pool excludes others who would."""

    __slots__ = ("_shares", "_turn", "only")

    def __init__(self) -> None:
        self._shares: tuple[_Share[R], ...] = ()
        self._turn = 0.0
        self.only: R | None = None

    def __iter__(self) -> Iterator[R]:
        return iter([share.route for share in self._shares])

    def __len__(self) -> int:
        return len(self._shares)

    def pick(self) -> R | None:
        """Whose the next call is; None if there is nobody."""
        best: _Share[R] | None = None
        first = (0, 0.0, 0.0)
        for share in self._shares:
            if not share.connection.usable:
                continue
            load = share.connection.load
            away = share.far or 0 < share.spillover <= load
            rank = (away, load / share.weight, share.turn)
            if best is None or rank < first:
                best, first = share, rank
        if best is None:
            return None
        # Who has had no turn for long does not get all of them now.
        self._turn = max(self._turn, best.turn)
        best.turn = self._turn + 1 / best.weight
        return best.route

    def put(self, route: R, here: str) -> list[R]:
        """Adds a route. `here`: the caller's node. Returns those that are of no use any more: an older one to the same
        server, too, since a call and the news of the servers may have led to it at the same time."""
        share = _Share(route, here)
        share.turn = self._turn
        new = route.server.id
        useful = [old for old in self._shares if old.connection.usable and (not new or old.route.server.id != new)]
        useless = [old.route for old in self._shares if old not in useful]
        self._keep([*useful, share])
        return useless

    def missing(self, candidates: Iterable[node_pb2.Candidate], here: str, spread: int) -> list[str]:
        """Takes in how the servers stand: ids of those to connect with, so that up to `spread` share the calls."""
        known = {share.route.server.id: share for share in self._shares if share.connection.usable}
        missing: list[str] = []
        room = spread
        for candidate in candidates:
            share = known.get(candidate.server.id)
            if share is not None:
                share.describe(candidate.server, here)
            if candidate.preferred and share is None:
                missing.append(candidate.server.id)
            elif candidate.preferred:
                room -= 1
        return missing[: max(0, room)]

    def surplus(self, candidates: Iterable[node_pb2.Candidate]) -> list[R]:
        """Routes to servers that are not to have calls any more, as there are better ones. A server that is not among
        the candidates is none of them: its node may be away while it is not."""
        preferred = {candidate.server.id: candidate.preferred for candidate in candidates}
        usable = [share.route for share in self._shares if share.connection.usable]
        if not any(preferred.get(route.server.id) for route in usable):
            return []
        return [route for route in usable if preferred.get(route.server.id) is False]

    def drop(self, routes: Sequence[R]) -> None:
        """Forgets these."""
        gone = [id(route) for route in routes]
        self._keep([share for share in self._shares if id(share.route) not in gone])

    def _keep(self, shares: Sequence[_Share[R]]) -> None:
        self._shares = tuple(shares)
        self.only = self._shares[0].route if len(self._shares) == 1 else None
