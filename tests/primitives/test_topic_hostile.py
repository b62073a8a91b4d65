"""Topics when another node lies, or makes mistakes: it harms nobody but itself."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, daemons, eventually
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives.errors import TimedOut
from ipcd_client.primitives.place import Place
from primitives import hostile_daemon, hostile_topics
from primitives.roads import Cluster
from primitives.test_topic import listed
from primitives.test_topic_ends import linked
from primitives.topic_readers import own_memory

from ipcd import limits
from ipcd.primitives.topic_outlets import REASON, REFUSED

LIAR = [sys.executable, str(Path(hostile_topics.__file__))]


@pytest.fixture(scope="module")
def liar() -> Iterator[Cluster]:
    """`back` lies."""
    with daemons() as both:
        back = both.run("b", launcher=LIAR)
        front = both.run("a", "--peer", back.listen)
        linked(front, back)
        yield Cluster(front, back)


@pytest.mark.parametrize("group", ["", "some"])
def test_what_a_liar_publishes(liar: Cluster, group: str) -> None:
    name = f"lies{group}"
    with (
        ipcd_client.topic(f"{name}.*", node=liar.front.socket) as topic,
        topic.subscribe(policy="block", group=group, most=1, prefetch=1) as messages,
        ipcd_client.topic(f"{name}.x", node=liar.front.socket) as own,
    ):
        message = messages.receive(LONG)
        # Of its own messages only the one that can be is given, as one of the node that sends it.
        assert (message.subject, message.data, message.node) == (f"{name}.x", b"good", "b")
        assert message.missed + messages.missed > 0
        assert messages.missed < 1 << 64
        # The subscription goes on, and so does the link.
        own.publish(b"own", wait=LONG)
        assert next(one for one in iter(lambda: messages.receive(LONG), None) if one.node == "a").data == b"own"
        assert listed(liar.front, f"{name}.*").subscriptions[0].dropped < 1 << 64
    assert len(liar.front.events("a message is lost")) >= 1
    assert not liar.front.events("a link of topics failed")


def test_what_a_liar_keeps(liar: Cluster) -> None:
    with (
        ipcd_client.topic("kept.*", node=liar.front.socket) as topic,
        ipcd_client.topic("kept.own", node=liar.front.socket) as own,
    ):
        own.publish(b"own", retain=True)
        assert [(message.subject, message.data, message.node) for message in topic.last(0)] == [
            ("kept.x", b"good", "b"),
            ("kept.own", b"own", "a"),
        ]
        # However many it says that it has removed.
        assert own.forget() == (1 << 32) - 1
    with ipcd_client.topic(hostile_topics.ENDLESS, node=liar.front.socket) as topic:
        # As much as one node may say, and no more.
        assert 0 < sum(len(message.data) for message in topic.last(0)) <= limits.TOPIC_REPLAY_NODE
        liar.front.logged("kept messages are left out", "bytes that one node keeps")
        with topic.subscribe(replay=10) as messages:
            assert [messages.receive(LONG).replayed for _ in range(10)] == [True] * 10
            with pytest.raises(TimedOut):
                messages.receive(0.05)
            # There may have been more.
            assert messages.gap


# -- what another node wants ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Any program of `back` is its daemon, if it says so."""
    with daemons() as both:
        back = both.run("b", launcher=hostile_daemon.LAUNCHER)
        front = both.run("a", "--peer", back.listen)
        linked(front, back)
        yield Cluster(front, back)


class Wanting:
    """A program of b that speaks as b's daemon does, to a."""

    def __init__(self, cluster: Cluster, session: bytes, **fields: Any) -> None:
        self._place = Place("topic", "x@a", cluster.back.socket)
        self._requests: queue.Queue[topic_pb2.TopicLinkRequest | None] = queue.Queue()
        self._call: Any = topic_pb2_grpc.TopicStub(self._place.channel()).Link(iter(self._requests.get, None))
        self.serial = 0
        self.ask(session=session, **fields)

    def linked(self) -> None:
        """Once a has said so."""
        next(self._call)

    def ask(self, **fields: Any) -> None:
        self.serial += 1
        self._requests.put(topic_pb2.TopicLinkRequest(name=">@a", serial=self.serial, **fields))

    def replies(self) -> Iterator[topic_pb2.TopicLinkReply]:
        yield from self._call

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._place.close()


@pytest.fixture
def wanting(cluster: Cluster) -> Iterator[Any]:
    made: list[Wanting] = []

    def make(session: bytes, **fields: Any) -> Wanting:
        made.append(Wanting(cluster, session, **fields))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_makes_no_sense_is_refused_and_the_rest_is_not(cluster: Cluster, wanting: Any) -> None:
    link = eventually(lambda: room(wanting, b"refused"), "those of other tests have ended")
    identity = ["spiffe://local/node/b/uid/0"]
    good: dict[str, Any] = {"pattern": "wanted.x", "identity": identity, "members": 1}
    bad: list[dict[str, Any]] = [
        {"pattern": ""},
        {"pattern": "a..b"},
        {"identity": []},
        {"identity": ["nobody"]},
        {"identity": identity * 17},
        {"group": "\u00e4" * 65},
        {"pattern": "@" + "y" * (1 << 20)},
        {"pattern": " " * 128, "identity": ["\x00" * 2048]},
    ]
    wants = [topic_pb2.TopicWant(**{**good, "id": index, **each}) for index, each in enumerate(bad)]
    wants.append(topic_pb2.TopicWant(**{**good, "id": 99}))
    # As many in one group as there can be nowhere.
    wants.append(topic_pb2.TopicWant(**{**good, "id": 100, "group": "many", "members": (1 << 32) - 1}))
    link.ask(wants=wants)
    refused: set[int] = set()
    for reply in link.replies():
        refused |= {one.id for one in reply.refused}
        # However long what it refuses is.
        assert all(len(one.why) <= REASON for one in reply.refused)
        if reply.confirmed >= link.serial:
            break
    assert refused == set(range(len(bad)))
    with ipcd_client.topic("wanted.x", node=cluster.front.socket) as topic:
        assert topic.publish(b"1").nodes >= 1
        parcels = next(list(reply.parcels) for reply in link.replies() if reply.parcels)
        assert [parcel.groups for parcel in parcels] == [[100]]
        link.ask(wants=[topic_pb2.TopicWant(**{**good, "id": 99, "blocking": True})])
        next(reply for reply in link.replies() if reply.confirmed >= link.serial)
        with ThreadPoolExecutor() as pool:
            publishing = pool.submit(topic.publish, b"2", wait=LONG)
            parcels = next(list(reply.parcels) for reply in link.replies() if reply.parcels)
            # That so many have had no room cannot be.
            link.ask(acks=[topic_pb2.TopicAck(number=parcels[0].number, full=(1 << 32) - 1)])
            with pytest.raises(TimedOut, match=f"^{limits.TOPIC_SUBSCRIPTIONS} of the subscribers"):
                publishing.result(LONG)


def test_many_that_are_refused_are_told_in_pieces(wanting: Any) -> None:
    link = eventually(lambda: room(wanting, b"many refused"), "those of other tests have ended")
    link.ask(wants=[topic_pb2.TopicWant(id=number, members=1) for number in range(2 * REFUSED + 1)])
    refused: list[int] = []
    confirmed = 0
    while confirmed < link.serial:
        reply = next(link.replies())
        assert len(reply.refused) <= REFUSED
        refused += [one.id for one in reply.refused]
        # Only then is the rest in force.
        confirmed = reply.confirmed
    assert refused == list(range(2 * REFUSED + 1))


def test_wants_without_an_end(cluster: Cluster, wanting: Any) -> None:
    one = wanting(b"endless", more=True)
    with pytest.raises(grpc.RpcError, match="says that there are more of them"):
        one.linked()
    # What is refused is not kept until all are there.
    before = own_memory(cluster.front.process.pid)
    one = wanting(b"long", more=True, wants=[topic_pb2.TopicWant(id=0)])
    for number in range(1, 33):
        one.ask(wants=[topic_pb2.TopicWant(id=number, members=1, pattern="y" * (3 << 20))], more=number < 32)
    one.linked()
    assert own_memory(cluster.front.process.pid) - before < 48 << 20


@pytest.mark.parametrize("whole", [True, False])
def test_wants_for_too_many(cluster: Cluster, wanting: Any, whole: bool) -> None:
    """Whether it says so all at once or later."""
    link = wanting(b"many identities", more=True, wants=[topic_pb2.TopicWant(id=0)])
    if not whole:
        link.ask()
        link.linked()
    identity = [f"spiffe://local/node/{'b' * 2000}{number}/uid/0" for number in range(16)]
    before = own_memory(cluster.front.process.pid)
    # Some 3 MB each; many more of them than are taken.
    for first in range(1, 3200, 100):
        wants = [
            topic_pb2.TopicWant(id=number, members=1, pattern="many.x", identity=identity)
            for number in range(first, first + 100)
        ]
        link.ask(wants=wants, more=whole)
    with pytest.raises(grpc.RpcError) as caught:
        list(link.replies())
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the limit of {limits.TOPIC_WANTS_IDENTITIES} bytes of identities" in failure.details()
    assert own_memory(cluster.front.process.pid) - before < 48 << 20


def room(wanting: Any, session: bytes) -> Wanting | None:
    """A link, unless there are too many."""
    link: Wanting = wanting(session)
    try:
        link.linked()
    except grpc.RpcError as error:
        failure: Any = error
        assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "links of one node for topics" in failure.details()
        return None
    return link


def test_one_node_has_few_links(wanting: Any) -> None:
    links = [
        eventually(partial(room, wanting, b"session %d" % number), "those of other tests end")
        for number in range(limits.TOPIC_SESSIONS)
    ]
    assert room(wanting, b"one too many") is None
    # One that has ended makes room, though it is remembered.
    links[0].close()
    assert eventually(lambda: room(wanting, b"another"), "there is room")
    # The others go on.
    for link in links[1:]:
        link.ask()
        next(reply for reply in link.replies() if reply.confirmed >= link.serial)
