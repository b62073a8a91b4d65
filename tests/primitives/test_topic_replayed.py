"""What is published while a subscriber is told what was kept before: it comes once, and nothing after what is newer."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ipcd_client
import pytest
from integration.daemons import LONG, Daemons, eventually
from ipcd_client.primitives.errors import Empty
from ipcd_client.primitives.topics import Message
from primitives import late_topics
from primitives.limited import limited
from primitives.test_topic import listed
from primitives.test_topic_ends import linked

LATE = [sys.executable, str(Path(late_topics.__file__))]


@pytest.mark.parametrize("keep", [1, 5])
def test_another_node_says_late_what_it_keeps(nodes: Daemons, aside: ThreadPoolExecutor, keep: int) -> None:
    back = nodes.run("b", "--listen", "127.0.0.1:0", launcher=LATE)
    front = nodes.run("a", "--peer", back.listen, launcher=LATE)
    linked(front, back)
    with (
        ipcd_client.topic("x", node=front.socket) as topic,
        ipcd_client.topic("x", node=back.socket) as there,
    ):
        there.publish(b"before", keep=keep)
        subscribing = aside.submit(topic.subscribe, replay=keep)
        # These wait for the subscriber, though it does not hear yet that it listens.
        eventually(lambda: there.publish(b"first", keep=keep).nodes == 1, "it is wanted")
        there.publish(b"second", keep=keep)
        there.publish(late_topics.LAST, keep=keep)
        with subscribing.result(LONG) as messages:
            there.publish(b"new")
            got: list[Message] = []
            while not got or got[-1].data != b"new":
                got.append(messages.receive(LONG))
        # `last` was told as kept, and waited besides.
        assert [one.data for one in got[-2:]] == [late_topics.LAST, b"new"]
        assert [one.replayed for one in got] == [True] * (len(got) - 1) + [False]
        numbers = [one.sequence for one in got]
        assert numbers == sorted(set(numbers))
        assert len(got) == min(keep + 1, numbers[-1])


@pytest.mark.parametrize("keep", [1, 5])
def test_a_node_is_silent_while_its_peer_publishes(nodes: Daemons, aside: ThreadPoolExecutor, keep: int) -> None:
    back = nodes.run("b", "--listen", "127.0.0.1:0")
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with ipcd_client.topic("x", node=front.socket) as topic:
        topic.publish(b"before", keep=keep)
        back.process.send_signal(signal.SIGSTOP)
        try:
            subscribing = aside.submit(topic.subscribe, replay=keep)
            eventually(lambda: listed(front, "x").subscriptions, "it is on the board")
            topic.publish(b"first", keep=keep)
            topic.publish(b"second", keep=keep)
        finally:
            back.process.send_signal(signal.SIGCONT)
        with subscribing.result(LONG) as messages:
            got = [messages.receive(LONG) for _ in range(3 if keep > 1 else 2)]
            assert [(one.data, one.replayed) for one in got][-2:] == [(b"first", False), (b"second", False)]
            with pytest.raises(Empty):
                messages.receive(0)


def test_more_is_kept_than_one_is_told(nodes: Daemons) -> None:
    """And while one does not take what it is to be told, another one of its process is told no more than is left."""
    node = nodes.run("a", launcher=limited(TOPIC_REPLAY=10, TOPIC_REPLAY_BYTES=12 * 128))
    with ipcd_client.topic("x.*", node=node.socket) as every, ipcd_client.topic("x.0", node=node.socket) as last:
        for number in range(15):
            with ipcd_client.topic(f"x.{number % 3}", node=node.socket) as topic:
                topic.publish(b"%d" % number, keep=5)
        newest = [b"%d" % number for number in range(5, 15)]
        assert [(one.data, one.gap) for one in every.last(0)] == list(zip(newest, [True] + [False] * 9, strict=True))
        with every.subscribe(replay=5, prefetch=1) as first, every.subscribe(replay=5) as second:
            last.publish(b"new")
            message = second.receive(LONG)
            assert (message.data, message.replayed, message.gap) == (b"new", False, True)
            assert [first.receive(LONG).data for _ in newest] == newest
            message = first.receive(LONG)
            assert (message.data, message.replayed, message.gap) == (b"new", False, True)
        # What was noted for them is not any more.
        assert [one.data for one in every.last(0)] == newest


@pytest.mark.parametrize("kept", [15, 10])
def test_another_node_keeps_more_than_it_tells(nodes: Daemons, kept: int) -> None:
    """Who asked here is told so, as by its own node."""
    back = nodes.run("b", "--listen", "127.0.0.1:0", launcher=limited(TOPIC_REPLAY=10))
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with ipcd_client.topic("x", node=front.socket) as topic, ipcd_client.topic("x", node=back.socket) as there:
        for number in range(kept):
            there.publish(b"%d" % number, keep=kept)
        newest = [b"%d" % number for number in range(kept - 10, kept)]
        gaps = [kept > 10] + [False] * 9
        assert [(one.data, one.gap) for one in topic.last(0)] == list(zip(newest, gaps, strict=True))
        with topic.subscribe(replay=kept) as messages:
            there.publish(b"new")
            got = [messages.receive(LONG) for _ in range(11)]
        assert [(one.data, one.gap) for one in got] == [*((each, False) for each in newest), (b"new", kept > 10)]
