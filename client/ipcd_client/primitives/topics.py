"""What both faces of topics share: the words, the requests and what comes back. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import grpc

from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives.errors import BadRequest

Policy = Literal["block", "drop-oldest", "drop-newest", "latest"]
POLICIES: Final[Mapping[str, topic_pb2.TopicPolicy]] = MappingProxyType(
    {
        "block": topic_pb2.TOPIC_POLICY_BLOCK,
        "drop-oldest": topic_pb2.TOPIC_POLICY_DROP_OLDEST,
        "drop-newest": topic_pb2.TOPIC_POLICY_DROP_NEWEST,
        "latest": topic_pb2.TOPIC_POLICY_LATEST,
    }
)
# Messages that are under way to a subscriber who has not asked for each. Those are beyond what its policy is about.
PREFETCH: Final = 32
# How a call fails whose node may be back later.
AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# With the end of `Replay` where not all that is kept was told (topic.proto).
LEFT_OUT: Final = "ipcd-left-out"
# Seconds between two tries to subscribe again: the first, and at most.
AGAIN: Final = (0.05, 2.0)
# A memoryview is read-only, of memory that all subscribers of the machine share.
Data = bytes | memoryview


class Message(NamedTuple):
    """One message.

    `data`: bytes; of a large message, which others on this machine are given too, a read-only memoryview of memory that
    all of them share. It stays as it is for as long as it, or anything made of it, is held.
    `missed`: how many between the message before and this one the subscriber was not given; with `gap`, there may be
    more that nobody has counted. `replayed`: it was kept from before. `node` and `sequence`: where it was published,
    and its number there; `time` by that node's clock, in seconds since the epoch.
    """

    subject: str
    data: Data
    node: str
    sequence: int
    time: float
    missed: int = 0
    gap: bool = False
    replayed: bool = False


class Published(NamedTuple):
    """What became of a message: subscribers of the own node that it is for, and other nodes it was sent to."""

    subscribers: int
    nodes: int
    sequence: int


class Wish(NamedTuple):
    """How somebody wants to listen."""

    policy: Policy = "drop-oldest"
    most: int = 0
    most_bytes: int = 0
    group: str = ""
    replay: int = 0
    prefetch: int | None = None

    @property
    def credit(self) -> int:
        """Messages that may be under way."""
        if self.prefetch is not None:
            return self.prefetch
        # The last one there is, as far as possible.
        return 1 if self.policy == "latest" else min(PREFETCH, self.most or PREFETCH)

    def request(self, name: str, *, again: bool, maps: bool) -> topic_pb2.TopicSubscribeRequest:
        """The first one. `again`: what was kept has come before. `maps`: what is large may be mapped.

        Raises:
            BadRequest: it makes no sense.
        """
        if self.policy not in POLICIES:
            raise BadRequest(f"there is no policy {self.policy!r}; there are {', '.join(POLICIES)}")
        if min(self.most, self.most_bytes, self.replay) < 0 or self.credit < 1:
            raise BadRequest("a number is negative, or prefetch is less than 1")
        return topic_pb2.TopicSubscribeRequest(
            name=name,
            policy=POLICIES[self.policy],
            most=self.most,
            most_bytes=self.most_bytes,
            group=self.group,
            replay=0 if again else self.replay,
            credit=self.credit,
            maps=maps,
        )


def publish_request(name: str, data: bytes, keep: int, wait: float | None) -> topic_pb2.TopicPublishRequest:
    """For one message."""
    return topic_pb2.TopicPublishRequest(name=name, data=data, keep=keep, wait=wait)


def published(reply: topic_pb2.TopicPublishReply) -> Published:
    """What became of it."""
    return Published(reply.subscribers, reply.nodes, reply.sequence)


def kept(message: topic_pb2.TopicMessage) -> Message:
    """One that was kept."""
    return Message(message.subject, message.data, message.node, message.sequence, message.time, replayed=True)


def left_out(trailing: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether the metadata at the end of `Replay` say that not all was told."""
    return any(key == LEFT_OUT for key, _ in trailing or ())


def last(told: list[topic_pb2.TopicMessage], trailing: Iterable[tuple[str, str | bytes]] | None) -> list[Message]:
    """All that were told as kept. Of what was left out, the first one tells."""
    messages = [kept(message) for message in told]
    if messages and left_out(trailing):
        messages[0] = messages[0]._replace(gap=True)
    return messages


class Flow:
    """A subscription's two ends of its call: what is to be asked for, and what has come.

    `maps`: large messages may come as references. `missed` in all, `gap` ever.
    """

    def __init__(self, name: str, wish: Wish, *, maps: bool = False) -> None:
        self._maps = maps
        self.missed = 0
        self.gap = False
        self._name = name
        self._wish = wish
        self._taken = 0  # for which no credit has been given
        self._poll = secrets.randbits(32)
        self._missed = 0
        self._gap = False

    def first(self, *, again: bool) -> topic_pb2.TopicSubscribeRequest:
        """Begins, or begins again after the node was lost."""
        self._taken = 0
        if again:
            self.gap = self._gap = True
        return self._wish.request(self._name, again=again, maps=self._maps)

    def credit(self) -> topic_pb2.TopicSubscribeRequest | None:
        """To be sent before waiting, if anything is: more may come."""
        if not self._taken or 2 * self._taken < self._wish.credit:
            return None
        taken, self._taken = self._taken, 0
        return topic_pb2.TopicSubscribeRequest(name=self._name, credit=taken)

    def poll(self, wait: float) -> topic_pb2.TopicSubscribeRequest:
        """To be sent where a wait is to end: `ended` is true of what ends it."""
        self._poll += 1
        taken, self._taken = self._taken, 0
        return topic_pb2.TopicSubscribeRequest(name=self._name, credit=taken, poll=self._poll, wait=max(0.0, wait))

    def ended(self, delivery: topic_pb2.TopicDelivery) -> bool:
        """Nothing has come in the time of the last poll."""
        return delivery.poll == self._poll

    def wanted(self, delivery: topic_pb2.TopicDelivery) -> topic_pb2.TopicMemoryRequest:
        """Asks for the data of a reference."""
        return topic_pb2.TopicMemoryRequest(name=self._name, memory=delivery.memory)

    def done(self, delivery: topic_pb2.TopicDelivery) -> topic_pb2.TopicSubscribeRequest:
        """To be sent once the data of a reference has come."""
        return topic_pb2.TopicSubscribeRequest(name=self._name, done=[delivery.memory])

    def take(self, delivery: topic_pb2.TopicDelivery, data: Data | None = None) -> Message | None:
        """The message in it, if there is one. `data`: what its reference stands for; without it, it is missed."""
        self.missed += delivery.missed
        self._missed += delivery.missed
        self.gap |= delivery.gap
        self._gap |= delivery.gap
        if not delivery.HasField("message"):
            return None
        self._taken += 1
        if delivery.memory and data is None:
            self.missed += 1
            self._missed += 1
            return None
        told = delivery.message
        message = Message(
            told.subject,
            told.data if data is None else data,
            told.node,
            told.sequence,
            told.time,
            self._missed,
            self._gap,
            delivery.replayed,
        )
        self._missed, self._gap = 0, False
        return message
