"""One who listens to a topic, what waits for it, and what it missed. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ipcd_client.pb.ipcd.v1 import topic_pb2

from ipcd.state.quota import Owner

if TYPE_CHECKING:
    from ipcd.state.outlet import Outlet

BLOCK: Final = topic_pb2.TOPIC_POLICY_BLOCK
DROP_OLDEST: Final = topic_pb2.TOPIC_POLICY_DROP_OLDEST
DROP_NEWEST: Final = topic_pb2.TOPIC_POLICY_DROP_NEWEST
LATEST: Final = topic_pb2.TOPIC_POLICY_LATEST
# What is missed is counted up to here: it has to fit where it is told.
MISSED_MOST: Final = (1 << 63) - 1


@dataclass(slots=True, eq=False, weakref_slot=True)
class Message:
    """One message, however many it waits for: `holders` counts them. `owner`: who published it. `readers`: subscribers
    that it was for and that can map its data; `watched`: somebody is to know when nobody holds it any more."""

    subject: str
    data: bytes
    node: str
    sequence: int
    time: float
    owner: Owner = ()
    holders: int = 0
    readers: int = 0
    watched: bool = False

    def shown(self, *, data: bool = True) -> topic_pb2.TopicMessage:
        """As it travels, with its data or without."""
        return topic_pb2.TopicMessage(
            subject=self.subject,
            data=self.data if data else b"",
            node=self.node,
            sequence=self.sequence,
            time=self.time,
        )


@dataclass(slots=True, eq=False)
class Interest:
    """What some subscribers of this node want of all nodes: one pattern, in one group or none, for the same identities.
    `refused`: nodes that do not let it have that."""

    id: int
    pattern: str
    group: str
    identities: tuple[str, ...]
    members: dict[Subscription, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """No two are alike in this."""
        return self.pattern, self.group, self.identities

    def shown(self) -> topic_pb2.TopicWant:
        """As other nodes are told of it."""
        return topic_pb2.TopicWant(
            id=self.id,
            pattern=self.pattern,
            group=self.group,
            identity=self.identities,
            members=len(self.members),
            blocking=any(one.policy == BLOCK for one in self.members),
        )


@dataclass(slots=True, eq=False)
class Pending:
    """A message on its way. `left`: those that the publisher waits for. `reached`: subscribers of this node, and
    `nodes`, that it is for; `full` of the subscribers had no room to the end."""

    message: Message
    wait: bool
    left: dict[Subscription | tuple[Outlet, int], None] = field(default_factory=dict)
    reached: int = 0
    nodes: int = 0
    full: int = 0


@dataclass(slots=True)
class _Entry:
    message: Message
    missed: int  # before it


class Subscription:
    """`most` messages and `most_bytes` of them may wait; one message does, however large."""

    def __init__(
        self,
        interest: Interest,
        policy: topic_pb2.TopicPolicy,
        most: int,
        most_bytes: int,
        owner: Owner,
        may: Callable[[str], bool] | None,
        *,
        maps: bool = False,
    ) -> None:
        self.maps = maps  # data that is in memory of this machine
        self.interest = interest
        self.policy = policy
        self.most = most
        self.most_bytes = most_bytes
        self.owner = owner
        self.may = may
        self.blocked: deque[Pending] = deque()
        self.gap = False
        self.size = 0
        self.delivered = 0
        self.dropped = 0
        self._missed = 0  # after the last that waits
        self._queue: OrderedDict[Hashable, _Entry] = OrderedDict()

    @property
    def pattern(self) -> str:
        """What it listens to."""
        return self.interest.pattern

    @property
    def group(self) -> str:
        """Empty where it is in none."""
        return self.interest.group

    @property
    def waiting(self) -> int:
        """Messages that it has not taken."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """It can be given a message without a loss."""
        return not self.blocked and len(self._queue) < self.most and self.size < self.most_bytes

    def messages(self) -> Iterator[Message]:
        """Those that wait, the oldest first."""
        return (entry.message for entry in self._queue.values())

    def has_room(self, message: Message) -> bool:
        """Whether it can wait without another having to go."""
        if not self._queue:
            return True
        return len(self._queue) < self.most and self.size + len(message.data) <= self.most_bytes

    def put(self, message: Message) -> list[Message]:
        """It waits from now on. Those that do not any more, which may be itself."""
        gone: list[Message] = []
        missed = 0
        key: Hashable = message
        if self.policy == LATEST:
            key = message.subject
            before = self._queue.pop(key, None)
            if before is not None:
                missed = self._drop(before, gone)
        while not self.has_room(message):
            if self.policy in {DROP_NEWEST, BLOCK}:
                self.miss(1)
                gone.append(message)
                return gone
            _, oldest = self._queue.popitem(last=False)
            carried = self._drop(oldest, gone)
            if self._queue:
                next(iter(self._queue.values())).missed += carried
            else:
                missed += carried
        self._queue[key] = _Entry(message, missed + self._missed)
        self._missed = 0
        self.size += len(message.data)
        return gone

    def _drop(self, entry: _Entry, gone: list[Message]) -> int:
        """How many are missed before what comes next."""
        self.size -= len(entry.message.data)
        self._count(1)
        gone.append(entry.message)
        return entry.missed + 1

    def miss(self, count: int) -> None:
        """It does not get so many that would come now."""
        self._missed += count
        self._count(count)

    def _count(self, count: int) -> None:
        self.dropped = min(self.dropped + count, MISSED_MOST)

    def take(self) -> tuple[Message | None, int, bool] | None:
        """The next message, what was missed before it, and whether there may be more; see Board.take."""
        gap, missed, message = self.gap, 0, None
        if self._queue:
            _, entry = self._queue.popitem(last=False)
            message, missed = entry.message, entry.missed
            self.size -= len(message.data)
            self.delivered += 1
        elif self._missed:
            missed, self._missed = self._missed, 0
        elif not gap:
            return None
        self.gap = False
        return message, min(missed, MISSED_MOST), gap

    def close(self) -> list[Message]:
        """It has gone: what waited for it."""
        messages = list(self.messages())
        self._queue.clear()
        self.size = 0
        return messages
