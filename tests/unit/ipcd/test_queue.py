"""What a queue does with many who wait."""

from __future__ import annotations

from unittest import mock

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb

from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_message import Message
from ipcd.state.queue_order import Ready
from ipcd.state.queue_waiters import Delivered, Receiver
from ipcd.state.quota import Shares


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
