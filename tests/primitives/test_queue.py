"""Queues, by every road and with both faces."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from integration.daemons import LONG, eventually
from ipcd_client.primitives.errors import (
    BadRequest,
    Empty,
    Full,
    Lost,
    NameTaken,
    NoSuchName,
    TimedOut,
)
from ipcd_client.primitives.queue import Draft, NotAll
from primitives.queue_faces import FACES, Face
from primitives.roads import Road


@pytest.fixture(scope="module", autouse=True)
def _grpc_aio_runs() -> Iterator[None]:
    """Else its thread would come with one test and go with another."""

    async def run(function: Callable[[], None]) -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(run(grpc.aio.init_grpc_aio))
        yield
        gc.collect()
        runner.run(run(grpc.aio.shutdown_grpc_aio))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Face]:
    made = Face(request.param, road)
    yield made
    made.close()


def data(messages: list[Any]) -> list[bytes]:
    return [message.data for message in messages]


def test_the_oldest_of_the_highest_priority_comes_first(face: Face) -> None:
    queue = face.queue("q", create=True)
    for number, (priority, type_) in enumerate([(0, 1), (31, 7), (5, 1), (31, 1), (0, 3)]):
        queue.send(b"%d" % number, priority, type=type_)
    assert data(queue.peek(9)) == [b"1", b"3", b"2", b"0", b"4"]
    assert data(queue.peek(9, type=1)) == [b"3", b"2", b"0"]
    assert data(queue.peek(9, type=-3)) == [b"3", b"2", b"0", b"4"]
    message = queue.receive()
    assert (message.data, message.priority, message.type, message.deliveries) == (b"1", 31, 7, 1)
    assert queue.receive(type=3).data == b"4"
    assert queue.receive(type=-7).data == b"3"
    assert data(queue.receive_many(9)) == [b"2", b"0"]
    with pytest.raises(Empty, match="there is nothing in queue"):
        queue.receive(timeout=0)
    with pytest.raises(Empty, match="there is nothing of that type in queue"):
        queue.receive(type=-2, timeout=0)
    with pytest.raises(TimedOut, match=r"no message came to queue \S+ within 0.05 s"):
        queue.receive(timeout=0.05)


def test_life_of_a_queue(face: Face) -> None:
    queue = face.queue("q", max_messages=5, when_full="fail", lease=60)
    for act in (
        lambda: queue.send(b""),
        lambda: queue.receive(timeout=0),
        queue.peek,
        queue.purge,
        queue.stat,
        queue.remove,
    ):
        with pytest.raises(NoSuchName, match="there is no queue"):
            act()
    assert queue.create()
    assert not queue.create()
    with pytest.raises(NameTaken):
        queue.create(exist_ok=False)
    other = face.queue("q", create=True, max_messages=9)
    other.send(b"xyz")
    held = queue.receive(ack=False)
    queue.send(b"12", delay=100)
    queue.send(b"1")
    stat = other.stat()
    assert (stat.node, stat.ready, stat.delayed, stat.held, stat.bytes) == (face.road.home.node, 1, 1, 1, 6)
    assert (stat.max_messages, stat.when_full, stat.lease, stat.durable) == (5, "fail", 60, False)
    assert other.purge() == 2
    held.nack()
    waiting = face.start(face.queue("q").receive, 9)
    eventually(lambda: queue.stat().receivers, "one waits")
    assert queue.remove() == 1
    with pytest.raises(NoSuchName, match="was removed"):
        waiting.result(LONG)
    with pytest.raises(NoSuchName):
        held.ack()


def test_a_full_queue(face: Face) -> None:
    blocking = face.queue("b", create=True, max_messages=3, max_bytes=10)
    assert len(blocking.send_many([b"123", b"4567"])) == 2
    for size, timeout, error in ((4, 0, Full), (4, 0.05, TimedOut), (11, None, BadRequest)):
        with pytest.raises(error):
            blocking.send(bytes(size), timeout=timeout)
    blocking.send(b"890")
    senders = []
    for number in range(3):
        senders.append(face.start(face.queue("b").send, b"s%d" % number))
        eventually(lambda: blocking.stat().senders == len(senders), "it waits")
    # Nobody goes first who comes later.
    with pytest.raises(Full):
        blocking.send(b"", timeout=0)
    assert data([blocking.receive() for _ in range(6)]) == [b"123", b"4567", b"890", b"s0", b"s1", b"s2"]
    numbers = [sender.result(LONG) for sender in senders]
    assert numbers == sorted(numbers)

    failing = face.queue("f", create=True, max_messages=1, when_full="fail")
    failing.send(b"")
    with pytest.raises(Full, match="is full: it takes 1 messages with 16777216 bytes"):
        failing.send(b"")

    oldest = face.queue("o", create=True, max_messages=3, when_full="drop-oldest")
    held = [oldest.send(b"held"), oldest.receive(ack=False)][1]
    ids = [oldest.send(b"%d" % number, 31 - number) for number in range(4)]
    assert all(ids)
    assert data(oldest.peek(9)) == [b"2", b"3"]
    held.ack()
    assert oldest.stat().dropped == 2
    # Nothing is thrown away for what finds no room by that.
    small = face.queue("s", create=True, max_bytes=10, when_full="drop-oldest")
    small.send(b"12345")
    held = small.receive(ack=False)
    small.send(b"6", delay=100)
    small.send(b"789")
    assert small.send(b"123456") == 0
    assert data(small.peek(9)) == [b"789"]
    assert small.send(b"1234")
    assert data(small.peek(9)) == [b"1234"]

    newest = face.queue("n", create=True, max_messages=1, when_full="drop-newest")
    assert newest.send(b"0")
    assert newest.send(b"1") == 0
    assert newest.stat().dropped == 1
    assert newest.receive().data == b"0"


def test_who_waits_is_served_in_order(face: Face) -> None:
    queue = face.queue("q")
    queue.create()
    receivers = []
    for type_ in (0, 5, 0, -3):
        receivers.append(face.start(face.queue("q").receive, type_))
        eventually(lambda: queue.stat().receivers == len(receivers), "it waits")
    queue.send_many([Draft(b"%d" % type_, 0, type_) for type_ in (5, 3, 5, 3)])
    assert [receiver.result(LONG).data for receiver in receivers] == [b"5", b"5", b"3", b"3"]
    assert queue.stat().ready == 0


def test_acknowledgement(face: Face) -> None:
    queue = face.queue("q", create=True, lease=60)
    queue.send_many([b"1", b"2", b"3"])
    first, second = queue.receive_many(2, ack=False)
    assert (first.deliveries, second.data, queue.stat().held) == (1, b"2", 2)
    first.nack()
    for act in (first.ack, first.nack, first.extend):
        with pytest.raises(Lost, match="is not held any more"):
            act()
    again = queue.receive(ack=False)
    assert (again.data, again.id, again.deliveries) == (b"1", first.id, 2)
    again.nack(delay=100)
    second.ack()
    assert (queue.stat().delayed, queue.stat().returned) == (1, 2)
    with pytest.raises(RuntimeError), queue.receive(ack=False):
        raise RuntimeError
    # What went wrong is told also where giving back goes wrong, too.
    message = queue.receive(ack=False)
    message.nack()
    with pytest.raises(RuntimeError) as caught, message:
        raise RuntimeError
    assert "was not given back" in caught.value.__notes__[0]
    with queue.receive(ack=False) as message:
        assert (message.data, message.deliveries) == (b"3", 3)
    assert (queue.stat().held, queue.stat().ready) == (0, 0)


def test_a_lease_is_over(face: Face) -> None:
    queue = face.queue("q", create=True, lease=60, deliveries=2, dead_letters=face.road.name("d").partition("@")[0])
    dead = face.queue("d")
    queue.send(b"poison", 7, type=9)
    first = queue.receive(ack=False, lease=0.05)
    second = queue.receive(ack=False, timeout=LONG)
    assert (second.id, second.deliveries) == (first.id, 2)
    with pytest.raises(Lost):
        first.ack()
    second.extend(0.05)
    letter = dead.receive(timeout=LONG)
    assert (letter.data, letter.priority, letter.type, letter.deliveries) == (b"poison", 7, 9, 1)
    with pytest.raises(Lost):
        second.ack()
    assert (queue.stat().dead, queue.stat().ready) == (1, 0)
    # Late, but nobody else has it.
    queue.send(b"late")
    late = queue.receive(ack=False, lease=0.01)
    eventually(lambda: queue.stat().ready, "its lease is over")
    late.ack()
    assert queue.stat().ready == 0


def test_a_full_queue_of_dead_letters_takes_no_more(face: Face) -> None:
    """Also one that throws away what has no room: the message stays where it is."""
    dead = face.queue("d", create=True, max_messages=1, when_full="drop-newest")
    dead.create()
    queue = face.queue("q", create=True, deliveries=1, dead_letters=face.road.name("d").partition("@")[0])
    for data in (b"1", b"2"):
        queue.send(data)
        queue.receive(ack=False, timeout=LONG).nack()
    assert (dead.stat().ready, queue.stat().dead) == (1, 1)
    assert queue.receive(timeout=LONG).data == b"2"


def test_delayed(face: Face) -> None:
    queue = face.queue("q", create=True)
    queue.send(b"later", 31, delay=100)
    queue.send(b"soon", delay=0.05)
    assert queue.receive(timeout=LONG).data == b"soon"
    assert (queue.stat().delayed, queue.stat().ready) == (1, 0)


def test_notify(face: Face) -> None:
    queue = face.queue("q", create=True)
    with queue.notify() as told, queue.notify() as cancelled:
        assert not told.wait(0)
        cancelled.close()
        queue.send(b"1")
        assert told.wait(LONG)
        assert told.wait(LONG)
    with queue.notify() as told:
        # Not of what comes where there is something; nor what somebody waits for.
        queue.send(b"2")
        queue.receive_many(2)
        waiting = face.start(face.queue("q").receive)
        eventually(lambda: queue.stat().receivers, "one waits")
        queue.send(b"3")
        assert waiting.result(LONG).data == b"3"
        assert not told.wait(0.05)
        queue.send(b"4")
        assert told.wait(LONG)
    with queue.notify() as told:
        queue.remove()
        with pytest.raises(NoSuchName):
            told.wait(LONG)


def test_batches(face: Face) -> None:
    queue = face.queue("q", create=True, max_messages=3000)
    ids = queue.send_many(b"%d" % number for number in range(2500))
    assert ids == sorted(set(ids))
    received: list[bytes] = []
    while len(received) < 2500:
        received += data(queue.receive_many(1000))
    assert received == [b"%d" % number for number in range(2500)]
    assert queue.send_many([]) == []
    large = [bytes([number]) * (1 << 20) for number in range(5)]
    queue.send_many(large)
    got = queue.receive_many(9)
    assert 1 <= len(got) < 5
    while len(got) < 5:
        got += queue.receive_many(9)
    assert data(got) == large

    small = face.queue("s", create=True, max_messages=2)
    with pytest.raises(NotAll, match="2 of 3 messages were sent: ") as caught:
        small.send_many([b"1", b"2", b"3"], timeout=1.0)
    assert len(caught.value.ids) == 2
    assert isinstance(caught.value.__cause__, TimedOut)
    rest = face.start(small.send_many, [b"3", b"4", b"5"])
    assert data([small.receive() for _ in range(5)]) == [b"1", b"2", b"3", b"4", b"5"]
    assert len(rest.result(LONG)) == 3


def test_what_makes_no_sense(face: Face) -> None:
    for method, arguments, words in (
        ("send", {"data": b"", "priority": 32}, "a priority is between 0 and 31, not 32"),
        ("send", {"data": b"", "priority": -1}, "out of range"),
        ("send", {"data": b"", "type": 0}, "the type of a message is 1 or more, not 0"),
        ("send", {"data": b"", "delay": -1}, "a delay is between 0 and"),
        ("send", {"data": bytes((3 << 20) + 1)}, "a message has at most 3145728 bytes"),
        ("send", {"data": b"", "timeout": -1}, "-1 is no number of seconds"),
        ("receive", {"type": -(1 << 63)}, "the negative of no type"),
        ("receive", {"ack": False, "lease": -1}, "a lease is between 0 and"),
        ("receive_many", {"most": 1025}, "at most 1024 messages are asked for at a time"),
    ):
        with pytest.raises(BadRequest, match=words):
            getattr(face.queue("q", create=True), method)(**arguments)
    options: list[tuple[dict[str, Any], str]] = [
        ({"max_messages": 1000001}, "room for at most 1000000 messages"),
        ({"max_bytes": 1 << 40}, "room for at most 536870912 bytes"),
        ({"lease": -1}, "a lease is between"),
        ({"deliveries": 3}, "deliveries are counted for dead_letters"),
        ({"dead_letters": "x"}, "dead_letters goes with deliveries"),
        ({"dead_letters": "x@a", "deliveries": 1}, "another queue, on the same node"),
        ({"when_full": "explode"}, "when_full is one of block, fail"),
    ]
    for arguments, words in options:
        with pytest.raises(BadRequest, match=words):
            face.queue("o", **arguments).create()


def test_durable(face: Face) -> None:
    queue = face.queue("q", create=True, durable=True)
    other = face.queue("q")
    queue.send_many([b"1", b"2"])
    assert other.receive().data == b"1"
    assert other.stat().held == 0
    held = queue.receive(ack=False)
    assert held.data == b"2"
    waiting = face.start(other.receive)
    eventually(lambda: queue.stat().receivers, "one waits")
    held.nack()
    assert waiting.result(LONG).deliveries == 2
    assert queue.stat().durable
    assert queue.remove() == 0
