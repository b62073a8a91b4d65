"""Slow subscribers of another node, and those who die while somebody waits for them, or they wait."""

from __future__ import annotations

import threading
from typing import Any

import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, eventually
from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives.errors import Empty
from primitives.roads import Cluster
from primitives.test_topic import listed
from primitives.test_topic_ends import program


def info(daemon: Daemon, pattern: str) -> topic_pb2.TopicSubscriptionInfo:
    (one,) = listed(daemon, pattern).subscriptions
    return one


@pytest.mark.parametrize(
    ("policy", "waiting", "missed"),
    [
        ("drop-oldest", [b"6", b"7", b"8"], [6, 0, 0]),
        ("drop-newest", [b"0", b"1", b"2"], [0, 0, 0]),
        ("latest", [b"8"], [8]),
        # Nobody waits for it: its publisher says so.
        ("block", [b"0", b"1", b"2"], [0, 0, 0]),
    ],
)
def test_what_a_slow_one_of_another_node_misses(
    cluster: Cluster, policy: Any, waiting: list[bytes], missed: list[int]
) -> None:
    name = f"far.{policy}"
    with (
        ipcd_client.topic(name, node=cluster.front.socket) as topic,
        ipcd_client.topic(name, node=cluster.back.socket) as there,
        there.subscribe(policy=policy, most=3, prefetch=1) as slow,
        there.subscribe() as quick,
    ):

        def publish(data: bytes) -> None:
            # It has come there once this one has it.
            assert topic.publish(data, wait=0).nodes == 1
            assert quick.receive(LONG).data == data

        def of_slow() -> topic_pb2.TopicSubscriptionInfo:
            return next(one for one in listed(cluster.back, name).subscriptions if one.policy == of_policy)

        of_policy = topic_pb2.TopicPolicy.Value(f"TOPIC_POLICY_{policy.upper().replace('-', '_')}")
        publish(b"first")
        eventually(lambda: not of_slow().waiting, "the first one is under way")
        for number in range(9):
            publish(b"%d" % number)
        dropped = 9 - len(waiting)
        assert (of_slow().waiting, of_slow().dropped) == (len(waiting), dropped)
        assert slow.receive(LONG).data == b"first"
        got = [slow.receive(LONG) for _ in waiting]
        assert [(message.data, message.missed) for message in got] == list(zip(waiting, missed, strict=True))
        publish(b"next")
        last = slow.receive(LONG)
        assert (last.data, sum(missed) + last.missed, slow.missed) == (b"next", dropped, dropped)


@pytest.mark.parametrize("there", [False, True], ids=["here", "there"])
def test_members_of_a_group_that_block_are_killed(cluster: Cluster, there: bool) -> None:
    home = cluster.back if there else cluster.front
    name = f"members.{there}"
    given: list[int] = []

    def publish() -> None:
        for number in range(8):
            topic.publish(b"%d" % number)
            given.append(number)

    with (
        ipcd_client.topic(name, node=cluster.front.socket) as topic,
        program("sub", home, name, "block", "some") as one,
        program("sub", home, name, "block", "some") as two,
    ):
        thread = threading.Thread(target=publish)
        thread.start()
        # One is under way to each, and one waits for each.
        eventually(lambda: len(given) == 4, "some are given")
        eventually(lambda: any(each.blocked for each in listed(home, name).subscriptions), "the publisher waits")
        one.kill()
        eventually(lambda: len(listed(home, name).subscriptions) == 1, "one has gone")
        # The other one takes nothing either: whoever waits, waits for that one.
        eventually(lambda: info(home, name).blocked, "the publisher waits for the other one")
        assert len(given) < 8
        with ipcd_client.topic(name, node=home.socket).subscribe(group="some") as third:
            two.kill()
            thread.join(LONG)
            assert len(given) == 8
            eventually(lambda: len(listed(home, name).subscriptions) == 1, "both have gone")
            topic.publish(b"last")
            # What waited for those is lost; what comes next, the third one has.
            data: Any = b""
            while data != b"last":
                data = third.receive(LONG).data
            assert third.missed == 0


def test_a_publisher_that_waits_for_another_node_is_killed(cluster: Cluster) -> None:
    name = "waits.far"
    with (
        ipcd_client.topic(name, node=cluster.back.socket) as topic,
        topic.subscribe(policy="block", most=1, prefetch=1) as slow,
        program("pub", cluster.front, name) as one,
    ):
        eventually(lambda: info(cluster.back, name).blocked, "it waits")
        one.kill()
        eventually(lambda: not info(cluster.back, name).blocked, "nobody waits")
        assert info(cluster.back, name).dropped == 1
        first, second = slow.receive(LONG), slow.receive(LONG)
        assert (first.data, second.data) == (b"0", b"1")
        with pytest.raises(Empty):
            slow.receive(0)
        assert slow.missed == 1


def test_one_of_many_readers_is_killed_with_messages_under_way(cluster: Cluster) -> None:
    """Whoever reads goes on, and what the dead one had not taken goes with it."""
    name = "readers"
    with (
        ipcd_client.topic(name, node=cluster.front.socket) as topic,
        topic.subscribe(policy="block") as reader,
        program("sub", cluster.front, name, "drop-oldest") as dead,
    ):
        for number in range(10):
            topic.publish(b"%d" % number)
        dead.kill()
        eventually(lambda: len(listed(cluster.front, name).subscriptions) == 1, "it has gone")
        assert topic.publish(b"10").subscribers == 1
        assert [reader.receive(LONG).data for _ in range(11)] == [b"%d" % number for number in range(11)]
        assert reader.missed == 0
