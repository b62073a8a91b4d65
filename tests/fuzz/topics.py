"""Topics, as callers that say what they like use them, and another node that is linked with this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from unittest import mock

import grpc
from fuzz.callers import CALLERS, THERE, Context
from fuzz.registry import target
from fuzz.things import END, OWNS, TIME, Method, Things, World, drive, methods
from google.protobuf.message import Message
from ipcd_client.access import identity as ids
from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives.topics import LEFT_OUT
from ipcd_client.primitives.waiting import Unanswered

from ipcd import limits
from ipcd.primitives.topic import TopicServicer
from ipcd.primitives.topic_links import ACKS, Link

# Bytes from which on a message has memory of its own.
_LARGE: Final = 16
_IDENTITY: Final = f"{ids.of_node('default', THERE)}/uid/7"


class _Link:
    """A call of Link at the other node, which answers what the input says."""

    def __init__(self) -> None:
        self._context = Context(CALLERS[0], topic_pb2.TopicLinkReply, api=False)
        self.tell = self._context.tell
        self.cancelled = False

    async def write(self, request: topic_pb2.TopicLinkRequest) -> None:
        assert len(request.acks) <= ACKS + limits.TOPIC_LINK_WAITING
        await self._context.write(request)

    async def read(self) -> Any:
        return await self._context.read()

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def cancel(self) -> None:
        self.cancelled = True


class _Told:
    """What the other node keeps. (a call of Replay)"""

    def __init__(self, told: list[topic_pb2.TopicMessage]) -> None:
        self._told = told

    async def __aiter__(self) -> AsyncIterator[topic_pb2.TopicMessage]:
        for each in self._told:
            yield each

    async def trailing_metadata(self) -> Sequence[tuple[str, str]]:
        return ((LEFT_OUT, "yes"),) if len(self._told) > 2 else ()

    def cancel(self) -> None:
        pass


class _There:
    """The other node's topics. (pb.TopicStub)"""

    def __init__(self) -> None:
        self.link: _Link | None = None
        self.kept: list[topic_pb2.TopicMessage] = []

    def Link(self) -> _Link:
        self.link = _Link()
        return self.link

    def Replay(self, _request: Message, timeout: float) -> _Told:
        return _Told(list(self.kept))

    async def Forget(self, _request: Message, timeout: float) -> topic_pb2.TopicForgetReply:
        if not self.kept:
            raise Unanswered(grpc.StatusCode.UNAVAILABLE, "it says nothing")
        return topic_pb2.TopicForgetReply(messages=(1 << 32) - 1)


def _topics(world: World) -> TopicServicer:
    world.peer = world.keeper.there = _There()  # type: ignore[attr-defined]
    return TopicServicer(world.keeper, world.loop.time)


def _replied(world: World, reply: topic_pb2.TopicLinkReply) -> None:
    if world.peer.link is not None:
        # One that says nothing ends the call.
        world.peer.link.tell(reply.SerializeToString() or None)


def _kept_there(world: World, message: topic_pb2.TopicMessage) -> None:
    if message.ByteSize():
        world.peer.kept.append(message)
    else:
        # It goes, or comes back.
        world.links.linked = () if world.links.linked else (THERE,)
        world.broker.changed.progressed()


def _check_topics(world: World) -> None:
    servicer: TopicServicer = world.servicer
    board, memories = servicer._board, servicer.memories
    board.check()
    held = list(servicer._outlets._held.values())
    assert len(held) <= limits.TOPIC_SESSIONS_NODE
    wants = [want for one in held for want in one.outlet.wants.values()]
    assert len(wants) <= limits.TOPIC_WANTS * len(held)
    groups = {(want.pattern, want.group) for want in wants}
    assert board._groups.keys() <= groups | {(one.pattern, one.group) for one in board.interests.values()}
    for one in held:
        assert len(one.refused) <= limits.TOPIC_WANTS + 1024
        assert len(one.outlet.unacked) <= sum(not task.done() for task, _ in world.calls)
    for interest in board.interests.values():
        assert all(len(why) <= 256 for why in interest.refused.values())
    for link in servicer._links._links.values():
        assert len(link._pending) <= limits.TOPIC_LINK_WAITING
        assert len(link._told) + len(link._stale) + len(link._in_force) + len(link._known) <= 4 * 60
    shared = [one for one in memories._shared.values() if one.content is not None]
    assert memories.count == len(shared) <= limits.TOPIC_MEMORIES
    assert memories.bytes == sum(len(one.message.data) for one in shared) <= limits.TOPIC_MEMORIES_BYTES
    assert len(memories._references) <= limits.TOPIC_REFERENCES * len(board.subscriptions)
    for subscription in board.subscriptions:
        assert subscription.waiting <= max(1, subscription.most)
        assert subscription.size == sum(len(message.data) for message in subscription.messages())
    assert board.kept.used <= limits.TOPIC_KEPT_BYTES


def _clear_topics(world: World) -> None:
    servicer: TopicServicer = world.servicer
    board, memories, outlets = servicer._board, servicer.memories, servicer._outlets
    assert not board.subscriptions
    assert not board.interests
    assert not memories._shared
    assert not memories._references
    for key in list(outlets._held):
        outlets._forget(key)
    assert not outlets._held
    assert board._trie.empty
    assert not board._groups
    board.kept.forget(">")
    for link in servicer._links._links.values():
        link._drop_pending()
    assert not servicer._wakers._called


_TOPICS: Final = Things(
    _topics,
    (
        *methods(topic_pb2, "Topic"),
        *(Method(one.described, lambda it: it.memories, api=True) for one in methods(topic_pb2, "TopicMemory")),
    ),
    _check_topics,
    _clear_topics,
    more=((topic_pb2.TopicLinkReply, _replied), (topic_pb2.TopicMessage, _kept_there)),
    small={
        "TOPIC_SUBSCRIPTIONS_EACH": OWNS,
        "TOPIC_BYTES_EACH": {"process": 3000, "uid": 4000, "node": 3000},
        "TOPIC_KEPT": 4,
        "TOPIC_KEPT_BYTES_EACH": {"uid": 2000, "node": 2000},
        "TOPIC_KEPT_SUBJECTS": 3,
        "TOPIC_REPLAY": 4,
        "TOPIC_REPLAY_BYTES_EACH": {"process": 2000, "uid": 3000, "node": 2000},
        "TOPIC_REPLAY_NODE": 1000,
        "TOPIC_MEMORY": _LARGE,
        "TOPIC_MEMORY_READERS": 1,
        "TOPIC_MEMORIES": 2,
        "TOPIC_WANTS": 4,
        "TOPIC_SESSIONS": 2,
        "TOPIC_AWAY": 2,
    },
)


def _listen(name: str = "a", **more: Any) -> topic_pb2.TopicSubscribeRequest:
    return topic_pb2.TopicSubscribeRequest(name=name, **more)


def _publish(data: bytes = b"x", **more: Any) -> topic_pb2.TopicPublishRequest:
    return topic_pb2.TopicPublishRequest(name="a", data=data, **more)


def _wants(*wants: topic_pb2.TopicWant, **more: Any) -> topic_pb2.TopicLinkRequest:
    return topic_pb2.TopicLinkRequest(name=">", session=b"s", wants=wants, **more)


def _want(id_: int, pattern: str = "a", **more: Any) -> topic_pb2.TopicWant:
    return topic_pb2.TopicWant(id=id_, pattern=pattern, identity=[_IDENTITY], **{"members": 1, **more})


def _parcel(subject: str = "a", data: bytes = b"x", **more: Any) -> bytes:
    message = topic_pb2.TopicMessage(subject=subject, data=data, sequence=1, time=1.0)
    parcel = topic_pb2.TopicParcel(message=message, **{"plain": True, **more})
    return _TOPICS.step(5, topic_pb2.TopicLinkReply(parcels=[parcel]).SerializeToString())


_BEGIN: Final = _TOPICS.step(5, topic_pb2.TopicLinkReply(confirmed=1).SerializeToString())
_AGAIN: Final = topic_pb2.TopicLinkReply(resumed=True, given_up=[1], missed=[{"id": 1, "count": 3}])
_REFUSES: Final = topic_pb2.TopicLinkReply(refused=[{"id": 1, "why": "no"}])
_TOPIC_STEPS: Final = (
    _TOPICS.call("Subscribe", _listen()),
    _TOPICS.call("Subscribe", _listen(policy=topic_pb2.TOPIC_POLICY_BLOCK, most=1, credit=1, maps=True), 1),
    _TOPICS.call("Subscribe", _listen("*", policy=topic_pb2.TOPIC_POLICY_LATEST, replay=2, credit=1), 2),
    _TOPICS.call("Subscribe", _listen(group="g", policy=topic_pb2.TOPIC_POLICY_DROP_NEWEST, most=1), 3),
    _TOPICS.call("Subscribe", _listen(">", maps=True, replay=1)),
    _TOPICS.say(topic_pb2.TopicSubscribeRequest(credit=1, poll=1, wait=0.5)),
    _TOPICS.say(topic_pb2.TopicSubscribeRequest(credit=1, done=[bytes(15) + b"\2"])),
    _TOPICS.call("Publish", _publish()),
    _TOPICS.call("Publish", _publish(b"y" * 20, keep=2), 1),
    _TOPICS.call("Publish", _publish(b"y" * 20, wait=0.0), 2),
    _TOPICS.call("Publish", _publish(wait=0.5), 3),
    _TOPICS.call("Replay", topic_pb2.TopicReplayRequest(name=">", most=1)),
    _TOPICS.call("Replay", topic_pb2.TopicReplayRequest(name="a", here=True, identity=[_IDENTITY]), 2),
    _TOPICS.call("Forget", topic_pb2.TopicForgetRequest(name="*")),
    _TOPICS.call("List", topic_pb2.TopicListRequest(name=">")),
    _TOPICS.call("Fetch", topic_pb2.TopicMemoryRequest(name="a", memory=bytes(15) + b"\2")),
    _TOPICS.call("Map", topic_pb2.TopicMemoryRequest(name="a", memory=bytes(15) + b"\2")),
    _TOPICS.call("Link", _wants(_want(1), _want(2, group="g"), serial=1), 2),
    _TOPICS.call("Link", _wants(_want(3, ">", blocking=True), serial=1, more=True), 2),
    _TOPICS.say(_wants(_want(1, members=0), _want(4, "*"), serial=2, received=1)),
    _TOPICS.say(_wants(acks=[topic_pb2.TopicAck(number=1, full=1)])),
    _BEGIN,
    _BEGIN + _parcel() + _parcel(number=1) + _parcel(number=1, data=b"y" * 20),
    _BEGIN + _parcel(groups=[1, 2]) + _parcel("b", not_for=[1]),
    _TOPICS.step(5, _AGAIN.SerializeToString()),
    _TOPICS.step(5, _REFUSES.SerializeToString()),
    _TOPICS.step(5),
    _TOPICS.step(6),
    _TOPICS.step(6, topic_pb2.TopicMessage(subject="a", data=b"x", sequence=1, time=0.5).SerializeToString()),
    _TOPICS.step(END),
    _TOPICS.step(TIME, b"\x04"),
)


def _stub(link: Link) -> object:
    keeper: Any = link._links.keeper
    return keeper.there


@target(
    "topic",
    _TOPICS.steps(_TOPIC_STEPS, ("a", "a", "b", "*", ">", "a.b", "g", "a@here", "b@there", "", _IDENTITY, "n" * 200)),
    words=(*_TOPIC_STEPS, b"\x32\x1f" + _IDENTITY.encode()),
    largest=2048,
)
def _topic(data: bytes) -> object:
    """Publishers, subscribers, what is kept, and both ends of links."""
    with mock.patch.object(Link, "stub", _stub):
        return drive(_TOPICS, data)
