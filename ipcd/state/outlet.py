"""What of this node's topics another node wants, and what waits to be sent there. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ipcd_client.pb.ipcd.v1 import topic_pb2

from ipcd import limits
from ipcd.state.subscription import Message, Pending


@dataclass(slots=True, eq=False)
class Want:
    """What some subscribers there want (TopicWant). `may`: whether they may have a subject of this node. `identities`:
    bytes of those for whom, which it keeps."""

    id: int
    pattern: str
    group: str
    members: int
    blocking: bool
    outlet: Outlet
    may: Callable[[str], bool] = lambda _subject: True
    identities: int = 0


@dataclass(slots=True, eq=False)
class Parcel:
    """One message for one node. `plain` and `groups`: ids of wants; `number` unless 0: its publisher waits."""

    message: Message
    plain: list[int] = field(default_factory=list)
    not_for: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    blocking: bool = False
    number: int = 0

    def shown(self) -> topic_pb2.TopicParcel:
        """As it travels."""
        return topic_pb2.TopicParcel(
            message=self.message.shown(),
            plain=bool(self.plain),
            not_for=self.not_for,
            groups=self.groups,
            number=self.number,
        )


class Outlet:
    """To one node, as long as it is linked and a while longer."""

    def __init__(self, most: int = limits.TOPIC_LINK_WAITING, most_bytes: int = limits.TOPIC_LINK_BYTES) -> None:
        self.wants: dict[int, Want] = {}
        self.unacked: dict[int, Pending] = {}
        self.given_up: list[int] = []
        self.missed: dict[int, int] = {}
        self.is_away = False
        self._most = most
        self._most_bytes = most_bytes
        self._parcels: deque[Parcel] = deque()
        self._size = 0
        self._number = 0
        self._taken = 0
        # Those that the node has not confirmed: their places, and the wants that they were for. So many at most: then
        # the others wait.
        self._unconfirmed: deque[tuple[int, list[int]]] = deque()
        self._identities = 0  # bytes, of all wants

    def add(self, want: Want) -> None:
        """It is wanted from now on.

        Raises:
            LimitReached: too many, or for too many.
        """
        check_wants(len(self.wants) + 1, self._identities + want.identities)
        self.wants[want.id] = want
        self._identities += want.identities

    def discard(self, number: int) -> Want | None:
        """Takes out what was wanted by this id, if anything was."""
        want = self.wants.pop(number, None)
        if want is not None:
            self._identities -= want.identities
        return want

    def number(self) -> int:
        """For an ack."""
        self._number += 1
        return self._number

    def put(self, parcel: Parcel) -> list[Parcel]:
        """It is to be sent. Those that are not any more, for want of room: the oldest, but those whose publishers
        wait."""
        gone: list[Parcel] = []
        size = len(parcel.message.data)
        index = 0
        while self._parcels and (len(self._parcels) >= self._most or self._size + size > self._most_bytes):
            while index < len(self._parcels) and self._parcels[index].number:
                index += 1
            if index == len(self._parcels):
                break  # as many publishers as there may be calls
            oldest = self._parcels[index]
            del self._parcels[index]
            self._size -= len(oldest.message.data)
            self.lost(oldest)
            gone.append(oldest)
        self._parcels.append(parcel)
        self._size += size
        return gone

    def lost(self, parcel: Parcel) -> None:
        """It is not sent: counted for those who wanted it."""
        self._lost([*parcel.plain, *parcel.groups])

    def _lost(self, wants: list[int]) -> None:
        for number in wants:
            if number in self.wants:
                self.missed[number] = self.missed.get(number, 0) + 1

    def take(self) -> Parcel | None:
        """The next one."""
        if not self._parcels or len(self._unconfirmed) >= self._most:
            return None
        parcel = self._parcels.popleft()
        self._size -= len(parcel.message.data)
        self._taken += 1
        self._unconfirmed.append((self._taken, [*parcel.plain, *parcel.groups]))
        return parcel

    def received(self, count: int) -> None:
        """So many parcels have come there."""
        while self._unconfirmed and self._unconfirmed[0][0] <= count:
            self._unconfirmed.popleft()

    def back(self, received: int) -> None:
        """The node is linked again, and has got so many parcels: those that were under way are lost."""
        self.is_away = False
        self.received(received)
        while self._unconfirmed:
            self._lost(self._unconfirmed.popleft()[1])
        # The next parcel is the first after those that it has got.
        self._taken = received

    def give_up(self, number: int) -> None:
        """The publisher of a message does not wait for it any more."""
        del self.unacked[number]
        for parcel in self._parcels:
            if parcel.number == number:
                parcel.number = 0
                return
        self.given_up.append(number)

    def cut(self) -> list[Parcel]:
        """The node is away: what would have been sent is lost."""
        self.is_away = True
        parcels = list(self._parcels)
        self._parcels.clear()
        self._size = 0
        for parcel in parcels:
            self.lost(parcel)
        self.given_up.clear()
        return parcels

    def take_missed(self) -> dict[int, int]:
        """What those there missed, by their wants; not told again."""
        missed, self.missed = self.missed, {}
        return missed


def check_wants(count: int, identities: int) -> None:
    """Whether one node may want so many patterns, for so many bytes of identities.

    Raises:
        LimitReached: it may not.
    """
    limits.check("patterns that one node wants", count, limits.TOPIC_WANTS)
    limits.check("bytes of identities for whom one node wants topics", identities, limits.TOPIC_WANTS_IDENTITIES)
