"""What a queue does with many who wait."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest import mock

import pytest
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.queue_parts import Sending

from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_gone import PIECE
from ipcd.state.queue_message import Message
from ipcd.state.queue_order import Heap, Ready
from ipcd.state.queue_waiters import Arrived, Delivered, Receiver, Taken, Watcher
from ipcd.state.quota import Shares


@pytest.mark.parametrize(("wait", "asked"), [(None, [None, None]), (0.0, [0.0, 0.0]), (1e-9, [1e-9, 0.001])])
def test_a_sender_that_waits_goes_on_to_wait(wait: float | None, asked: list[float | None]) -> None:
    """Else the rest of a batch that took its time would fail otherwise than the first ones."""
    sending = Sending("q", [b"1", b"2"], wait, None)
    waits = []
    while (next_ := sending.request()) is not None:
        request, wait = next_
        assert (request.wait if request.HasField("wait") else None) == wait
        waits.append(wait)
        sending.got(pb.QueueSendReply(ids=[1]))
    assert waits == asked


def test_a_message_is_not_offered_to_all_who_wait_for_others() -> None:
    around = Around(Numbers(), Shares("bytes", 1 << 20, {}), lambda _queue, _message, _now: False)
    queue = Queue("q", completed(pb.QueueOptions()), around)
    receivers = [Receiver(type_, 1, 30.0) for type_ in (5, 0, -5) for _ in range(100)]
    others = receivers[:100]
    for receiver in receivers:
        queue.wait(receiver)
    asked = 0

    def counting(ready: Ready, type_: int = 0, real=Ready.next) -> Message | None:  # type: ignore[no-untyped-def]
        nonlocal asked
        asked += 1
        message: Message | None = real(ready, type_)
        return message

    with mock.patch.object(Ready, "next", counting):
        for sent in range(200):
            queue.send([Message(0, 3, b"", ())], 0.0, wait=False)
            event = queue.events.pop()
            assert isinstance(event, Delivered)
            assert event.receiver is receivers[100 + sent]
            queue.ack(event.messages[0].id, event.messages[0].tag, 0.0)
        queue.send([Message(0, 3, b"", ())], 0.0, wait=False)
    assert (queue.ready, queue.receivers, queue.events) == (1, len(others), [])
    assert asked < 200 * 8


def test_a_lease_that_ended_while_the_daemon_was_down_counts() -> None:
    buried: list[Message] = []

    def bury(_queue: Queue, message: Message, _now: float) -> bool:
        buried.append(message)
        return True

    shares = Shares("bytes", 1 << 20, {})
    options = completed(pb.QueueOptions(deliveries=3, dead_letters="dead"))
    queue = Queue("q", options, Around(Numbers(), shares, bury))
    for number, deliveries in ((1, 3), (2, 2)):
        message = Message(0, 1, b"", (), 0.0, number, 10 + number, deliveries, held=True, until=5.0)
        shares.take((), message.cost)
        queue.restore(message, 100.0)
    queue.advance(100.0)
    assert [message.id for message in buried] == [1]
    assert [message.id for message in queue.receive(0, 9, 30.0, 100.0)] == [2]


@pytest.mark.parametrize("type_", [0, 2, -2])
def test_who_looks_at_few_messages_does_not_touch_all(type_: int) -> None:
    ready = Ready()
    messages = [Message(number % 3, 1 + number % 2, b"", (), id=number) for number in range(1, 1001)]
    for message in messages:
        ready.add(message)
    asked = 0
    real: Any = vars(Message)["rank"]

    def rank(message: Message) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        found: tuple[int, int] = real.fget(message)
        return found

    with mock.patch.object(Message, "rank", property(rank)):
        shown = ready.list(type_, 3)
    wanted = [message for message in messages if message.type == (type_ or message.type)]
    if type_ < 0:
        wanted = [message for message in messages if message.type == 1]
    assert shown == sorted(wanted, key=lambda message: message.rank)[:3]
    assert asked < 10


def test_what_was_kept_of_a_type_goes_with_its_last_message() -> None:
    """And does not stay until the collector comes, which holds up the daemon."""
    ready = Ready()
    message = Message(0, 3, b"", (), id=1)
    ready.add(message)
    kept = weakref.ref(ready._types[3])
    gc.disable()
    try:
        ready.remove(message)
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("held", [True, False])
def test_of_many_whose_time_is_over_others_do_not_wait_for_all(held: bool) -> None:
    count = 2 * PIECE + 1
    queue = Queue("q", completed(pb.QueueOptions(messages=count)), Around(Numbers(), Shares("b", 1 << 30, {}), _keeps))
    queue.send([Message(0, 1, b"", (), until=0.0 if held else 30.0) for _ in range(count)], 0.0, wait=False)
    queue.receive(0, count, 30.0, 0.0)
    left = []
    while queue.next_time() == 30.0:
        queue.advance(31.0)
        left.append(queue.held + queue.delayed)
    assert left == [PIECE + 1, 1, 0]
    assert [message.id for message in queue.peek(0, count)] == list(range(1, count + 1))


def test_those_that_went_before_the_first_are_not_passed_over_one_by_one() -> None:
    """As where a long queue is acknowledged with the last message first."""
    there = set(range(1000))
    asked = 0

    def counts(entry: tuple[float, int]) -> bool:
        nonlocal asked
        asked += 1
        return entry[1] in there

    heap = Heap(counts, lambda: ((number, number) for number in there), lambda: len(there))
    for number in range(1000):
        heap.push((number, number))
    there.intersection_update({7, 8})
    assert heap.first() == (7, 7)
    assert heap.least(9) == [(7, 7), (8, 8)]
    assert asked < 20


def test_what_waited_for_room_arrives_in_the_empty_queue_once_it_is_purged() -> None:
    queue = Queue("q", completed(pb.QueueOptions(messages=1)), Around(Numbers(), Shares("b", 1 << 30, {}), _keeps))
    queue.send([Message(0, 1, b"old", ())], 0.0, wait=False)
    queue.send([Message(0, 1, b"new", ())], 0.0, wait=True)
    watcher = Watcher()
    queue.wait(watcher)
    queue.purge(0.0)
    assert [type(event) for event in queue.events] == [Taken, Arrived]


def _keeps(_queue: Queue, _message: Message, _now: float) -> bool:
    return False
