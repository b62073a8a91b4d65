"""Topics, on every road and by both faces."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, eventually
from integration.gateway import address_of
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Empty, Full, Lost, TimedOut
from ipcd_client.primitives.place import Place
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Cluster, Road
from primitives.topics_at import FACES, Face, Loop, loop_for_a_module

from ipcd import limits


@pytest.fixture(scope="module", autouse=True)
def loop(cluster: Cluster) -> Iterator[Loop]:
    with loop_for_a_module(address_of(cluster.front)) as one:
        yield one


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road, loop: Loop) -> Iterator[Face]:
    made = Face(request.param, road, loop)
    yield made
    made.close()


@pytest.fixture
def threads(road: Road) -> Iterator[Face]:
    """For what both faces share, or where threads are needed."""
    made = Face("threads", road)
    yield made
    made.close()


def listed(daemon: Daemon, pattern: str = ">") -> topic_pb2.TopicListReply:
    """What a node says of its topics."""
    place = Place("topic", pattern + f"@{daemon.node}", daemon.socket)
    try:
        request = topic_pb2.TopicListRequest(name=pattern)
        reply: topic_pb2.TopicListReply = place.run(
            topic_pb2_grpc.TopicStub, lambda stub: stub.List(request, timeout=LONG)
        )
        return reply
    finally:
        place.close()


def data_of(subscription: Any, count: int) -> list[bytes]:
    return [subscription.receive(LONG).data for _ in range(count)]


# -- each verb, on each road, by each face --------------------------------------------------------


def test_all_who_listen_get_it(face: Face) -> None:
    name = face.road.name("orders.eu.new")
    subject = name.partition("@")[0]
    prefix, _, node = name.partition(".")[0], None, face.road.home.node
    others = [f"{prefix}.orders.>", f"{prefix}.*.eu.*", f"{prefix}.>"]
    not_these = [f"{prefix}.orders.*", f"{prefix}.orders.us.>", f"{subject}.more"]
    got = [face.subscribe(f"{each}@{node}") for each in (subject, *others)]
    nothing = [face.subscribe(f"{each}@{node}") for each in not_these]
    topic = face.topic(name)
    published = topic.publish(b"one")
    assert published.subscribers == len(got)
    topic.publish(b"\x00two\xff")
    for subscription in got:
        first = subscription.receive(LONG)
        assert (first.subject, first.data, first.node) == (subject, b"one", node)
        assert (first.sequence, first.missed, first.gap, first.replayed) == (published.sequence, 0, False, False)
        assert subscription.receive(LONG).data == b"\x00two\xff"
    for subscription in (*got, *nothing):
        with pytest.raises(Empty):
            subscription.receive(0)
    with pytest.raises(TimedOut):
        got[0].receive(0.05)
    # Whoever has waited in vain goes on.
    topic.publish(b"three")
    assert got[0].receive(LONG).data == b"three"
    assert topic.publish(b"four").sequence > published.sequence


def test_nobody_listens(face: Face) -> None:
    assert face.topic(face.road.name("nobody")).publish(b"x", wait=0).subscribers == 0


def test_what_is_kept(face: Face) -> None:
    road = face.road
    one, other = face.topic(road.name("kept.one")), face.topic(road.name("kept.other"))
    every = face.topic(road.name("kept.*"))
    assert every.last() == []
    for number in range(5):
        one.publish(b"%d" % number, keep=3)
    other.publish(b"last", retain=True)
    other.publish(b"not kept")
    assert [message.data for message in one.last()] == [b"4"]
    assert [message.data for message in one.last(0)] == [b"2", b"3", b"4"]
    assert [message.data for message in every.last(2)] == [b"3", b"4", b"last"]
    late = face.subscribe(road.name("kept.*"), replay=10)
    one.publish(b"5")
    got = [late.receive(LONG) for _ in range(5)]
    assert [message.data for message in got] == [b"2", b"3", b"4", b"last", b"5"]
    assert [message.replayed for message in got] == [True] * 4 + [False]
    assert [message.data for message in [face.subscribe(road.name("kept.one"), replay=1).receive(LONG)]] == [b"4"]
    with pytest.raises(Empty):
        face.subscribe(road.name("kept.one")).receive(0)
    assert every.forget() == 4
    assert every.forget() == 0
    assert every.last() == []


@pytest.mark.parametrize(
    ("policy", "waiting", "missed"),
    [
        ("drop-oldest", [b"6", b"7", b"8"], [6, 0, 0]),
        ("drop-newest", [b"0", b"1", b"2"], [0, 0, 0]),
        ("latest", [b"8"], [8]),
    ],
)
def test_a_slow_one_misses_what_its_policy_says(
    face: Face, policy: Any, waiting: list[bytes], missed: list[int]
) -> None:
    slow = face.subscribe(face.road.name("slow.*"), policy=policy, most=3, prefetch=1)
    topic = face.topic(face.road.name("slow.x"))
    # One is under way; the others wait, as far as they may.
    topic.publish(b"first")
    eventually(lambda: not _waiting(face, "slow.*"), "the first one is under way")
    for number in range(9):
        topic.publish(b"%d" % number)
    assert slow.receive(LONG).data == b"first"
    got = [slow.receive(LONG) for _ in waiting]
    assert [message.data for message in got] == waiting
    assert [message.missed for message in got] == missed
    # What is missed at the end is told, too, at the latest with the next message.
    topic.publish(b"next")
    last = slow.receive(LONG)
    assert last.data == b"next"
    dropped = 9 - len(waiting)
    assert slow.missed == dropped == sum(missed) + last.missed
    (info,) = _infos(face, "slow.*")
    assert info.dropped == dropped


def _infos(face: Face, name: str) -> list[topic_pb2.TopicSubscriptionInfo]:
    pattern = face.road.name(name).partition("@")[0]
    return [one for one in listed(face.road.home).subscriptions if one.pattern == pattern]


def _waiting(face: Face, name: str) -> int:
    return sum(one.waiting for one in _infos(face, name))


def test_latest_is_one_of_each_subject(face: Face) -> None:
    latest = face.subscribe(face.road.name("rates.*"), policy="latest", prefetch=1)
    rates = {name: face.topic(face.road.name(f"rates.{name}")) for name in ("eur", "usd")}
    rates["eur"].publish(b"under way")
    eventually(lambda: not _waiting(face, "rates.*"), "the first one is under way")
    for number in range(4):
        for topic in rates.values():
            topic.publish(b"%d" % number)
    assert latest.receive(LONG).data == b"under way"
    got = [latest.receive(LONG) for _ in rates]
    assert [(message.subject.rpartition(".")[2], message.data) for message in got] == [("eur", b"3"), ("usd", b"3")]
    assert latest.missed == 6


def test_a_publisher_waits_for_those_who_block(face: Face) -> None:
    slow = face.subscribe(face.road.name("block"), policy="block", most=2, prefetch=1)
    quick = face.subscribe(face.road.name("block"))
    topic = face.topic(face.road.name("block"))
    topic.publish(b"0")
    eventually(lambda: not _waiting(face, "block"), "the first one is under way")
    for number in (1, 2):
        topic.publish(b"%d" % number, wait=LONG)
    with pytest.raises(Full, match=r"1 of the subscribers of .*block had no room; all others have it"):
        topic.publish(b"3", wait=0)
    with pytest.raises(TimedOut):
        topic.publish(b"4", wait=0.05)
    assert data_of(quick, 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert data_of(slow, 3) == [b"0", b"1", b"2"]
    topic.publish(b"5", wait=LONG)
    last = slow.receive(LONG)
    assert (last.data, last.missed, slow.missed) == (b"5", 2, 2)


def test_it_goes_on_as_soon_as_there_is_room(threads: Face) -> None:
    slow = threads.subscribe(threads.road.name("room"), policy="block", most=1, prefetch=1)
    topic = threads.topic(threads.road.name("room"))
    count = 20
    thread = threading.Thread(target=lambda: [topic.publish(b"%d" % number) for number in range(count)])
    thread.start()
    try:
        eventually(lambda: _infos(threads, "room")[0].blocked == 1, "the publisher waits")
        assert data_of(slow, count) == [b"%d" % number for number in range(count)]
        assert slow.missed == 0
    finally:
        slow.close()
        thread.join(LONG)
    # The end of the one that it waited for lets a publisher go on, too.
    for _ in range(3):
        topic.publish(b"nobody", wait=0)


def test_one_of_a_group(face: Face) -> None:
    name = face.road.name("jobs.*")
    members = [face.subscribe(name, group="workers") for _ in range(3)]
    alone = face.subscribe(name)
    other = face.subscribe(name, group="others")
    topic = face.topic(face.road.name("jobs.x"))
    for number in range(9):
        assert topic.publish(b"%d" % number).subscribers == 3
    every = [b"%d" % number for number in range(9)]
    assert data_of(alone, 9) == data_of(other, 9) == every
    shares = [data_of(member, 3) for member in members]
    assert sorted(itertools.chain(*shares)) == every
    for member in members:
        with pytest.raises(Empty):
            member.receive(0)
    # Those that are left have it all.
    members[0].close()
    eventually(lambda: len(_infos(face, "jobs.*")) == 4, "one has gone")
    for number in range(4):
        topic.publish(b"%d" % number)
    assert sorted(data_of(members[1], 2) + data_of(members[2], 2)) == every[:4]


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a.", "a.>.b", "a.b*", ">x", "a b", "a/b", "x" * 129, "a@"])
def test_wrong_names(threads: Face, name: str) -> None:
    with pytest.raises(BadRequest):
        ipcd_client.topic(name, **threads.road.keywords)


def test_what_makes_no_sense(face: Face) -> None:
    with pytest.raises(BadRequest, match="is a pattern, and a message has a subject"):
        face.topic(face.road.name("a.*")).publish(b"x")
    topic = face.topic(face.road.name("a"))
    with pytest.raises(BadRequest, match="there is no policy 'best'"):
        topic.subscribe(policy="best")
    with pytest.raises(BadRequest, match="negative"):
        topic.subscribe(most=-1)
    with pytest.raises(BadRequest, match="the name of a group has more than 128 bytes"):
        topic.subscribe(group="\u00e4" * 65)
    topic.subscribe(group="\u00e4" * 64).close()


def test_bounds(face: Face) -> None:
    topic = face.topic(face.road.name("bounds"))
    subscription = face.subscribe(face.road.name("bounds"))
    large = bytes(limits.TOPIC_MESSAGE)
    topic.publish(large)
    assert subscription.receive(LONG).data == large
    refusals: tuple[Callable[[], Any], ...] = (
        lambda: topic.publish(large + b"x"),
        lambda: topic.publish(b"", keep=limits.TOPIC_KEPT + 1),
        lambda: topic.subscribe(most=limits.TOPIC_WAITING_MOST + 1),
        lambda: topic.subscribe(most_bytes=limits.TOPIC_WAITING_BYTES + 1),
    )
    for refused in refusals:
        with pytest.raises(CallFailed, match=r"the limit of .* is reached") as caught:
            refused()
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_closed_subscription(threads: Face) -> None:
    subscription = threads.subscribe(threads.road.name("closed"))
    ended: list[str] = []

    def listen() -> None:
        for _ in subscription:
            pass
        ended.append("ended")

    thread = threading.Thread(target=listen)
    thread.start()
    eventually(lambda: len(_infos(threads, "closed")) == 1, "it listens")
    subscription.close()
    thread.join(LONG)
    assert ended == ["ended"]
    with pytest.raises(Lost):
        subscription.receive(1)
    eventually(lambda: not _infos(threads, "closed"), "the node knows that it is gone")


def test_it_is_closed_while_somebody_waits(cluster: Cluster) -> None:
    async def run() -> None:
        async with ipcd_client.aio.topic("closing", node=cluster.front.socket) as topic:
            messages = await topic.subscribe()
            waiting = asyncio.create_task(messages.receive())
            while messages._reading is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await messages.close()
            with pytest.raises(Lost):
                await waiting

    asyncio.run(run())


def test_another_node_is_meant(cluster: Cluster) -> None:
    place = Place("topic", "x@a", cluster.front.socket)
    request = topic_pb2.TopicPublishRequest(name="x@b")
    try:
        with pytest.raises(grpc.RpcError) as caught:
            topic_pb2_grpc.TopicStub(place.channel()).Publish(request, timeout=LONG)
        failure: Any = caught.value
        assert (failure.code(), failure.details()) == (grpc.StatusCode.ABORTED, "elsewhere: b")
        # A handle goes there.
        before = listed(cluster.back).published
        place.run(topic_pb2_grpc.TopicStub, lambda stub: stub.Publish(request, timeout=LONG))
        assert listed(cluster.back).published == before + 1
    finally:
        place.close()


def test_a_client_of_plain_grpc_needs_no_more_than_one_request(cluster: Cluster) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        stub = topic_pb2_grpc.TopicStub(channel)
        call: Any = stub.Subscribe(iter([topic_pb2.TopicSubscribeRequest(name="plain.>")]))
        assert not next(call).HasField("message")
        for number in range(100):
            stub.Publish(topic_pb2.TopicPublishRequest(name="plain.x", data=b"%d" % number), timeout=LONG)
        assert [next(call).message.data for _ in range(100)] == [b"%d" % number for number in range(100)]
        call.cancel()


# -- between nodes --------------------------------------------------------------------------------


@pytest.fixture
def at(cluster: Cluster) -> Iterator[Any]:
    """Makes handles and subscriptions at a node."""
    made: list[Any] = []

    def topic(daemon: Daemon, name: str) -> Any:
        made.append(ipcd_client.topic(name, node=daemon.socket))
        return made[-1]

    def subscribe(daemon: Daemon, name: str, **keywords: Any) -> Any:
        made.append(topic(daemon, name).subscribe(**keywords))
        return made[-1]

    topic.subscribe = subscribe  # type: ignore[attr-defined]
    yield topic
    for one in reversed(made):
        one.close()


def test_one_copy_goes_to_another_node(cluster: Cluster, at: Any) -> None:
    ten = [at.subscribe(cluster.back, "copies.>") for _ in range(6)]
    ten += [at.subscribe(cluster.back, "copies.x") for _ in range(3)]
    ten.append(at.subscribe(cluster.back, "copies.*", group="some"))
    before = listed(cluster.front)
    topic = at(cluster.front, "copies.x")
    for number in range(5):
        done = topic.publish(b"%d" % number)
        assert (done.subscribers, done.nodes) == (0, 1)
    for subscription in ten:
        assert data_of(subscription, 5) == [b"%d" % number for number in range(5)]
    after = listed(cluster.front)
    assert after.published - before.published == after.sent - before.sent == 5
    # What nobody there wants does not go there.
    assert at(cluster.front, "other.x").publish(b"").nodes == 0
    for subscription in ten:
        subscription.close()
    eventually(lambda: topic.publish(b"").nodes == 0, "the other node wants no more")


def test_a_publisher_waits_for_those_of_another_node(cluster: Cluster, at: Any) -> None:
    quick = at.subscribe(cluster.back, "far.x")
    slow = at.subscribe(cluster.back, "far.*", policy="block", most=1, prefetch=1)
    other = at.subscribe(cluster.back, "elsewhere")
    topic = at(cluster.front, "far.x")
    topic.publish(b"0", wait=LONG)
    eventually(lambda: not any(one.waiting for one in listed(cluster.back, "far.*").subscriptions), "it is under way")
    topic.publish(b"1", wait=LONG)
    with pytest.raises(TimedOut, match="had no room; all others have it"):
        topic.publish(b"2", wait=0.2)
    # Nobody else has to wait for the slow one.
    assert data_of(quick, 3) == [b"0", b"1", b"2"]
    at(cluster.front, "elsewhere").publish(b"free", wait=LONG)
    assert other.receive(LONG).data == b"free"
    assert data_of(slow, 2) == [b"0", b"1"]
    topic.publish(b"3", wait=LONG)
    last = slow.receive(LONG)
    assert (last.data, last.missed) == (b"3", 1)


def test_a_group_of_two_nodes(cluster: Cluster, at: Any) -> None:
    members = [
        at.subscribe(daemon, "both.*", group="workers")
        for daemon in (cluster.front, cluster.back, cluster.back, cluster.front)
    ]
    for daemon in cluster:
        topic = at(daemon, "both.x")
        for number in range(8):
            topic.publish(b"%d" % number)
    shares = [data_of(member, 4) for member in members]
    assert sorted(itertools.chain(*shares)) == sorted(2 * [b"%d" % number for number in range(8)])


def test_what_is_kept_on_several_nodes(cluster: Cluster, at: Any) -> None:
    for number in range(2):
        for daemon in cluster:
            at(daemon, "everywhere").publish(b"%d" % number, keep=5)
    for daemon in cluster:
        topic = at(daemon, "everywhere")
        found = topic.last(3)
        assert [(message.node, message.data) for message in found] == [("b", b"0"), ("a", b"1"), ("b", b"1")]
        replayed = at.subscribe(daemon, "everywhere", replay=1).receive(LONG)
        assert (replayed.node, replayed.data, replayed.replayed) == ("b", b"1", True)
    assert at(cluster.front, "everywhere").forget() == 4
    assert at(cluster.back, "everywhere").last() == []


def test_a_node_that_is_not_there(cluster: Cluster, at: Any) -> None:
    with pytest.raises(IpcdError, match="node nowhere is not known"):
        at(cluster.front, "x@nowhere").publish(b"x")
