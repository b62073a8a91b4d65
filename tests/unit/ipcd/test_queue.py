"""What a queue does with many who wait."""

from __future__ import annotations

from unittest import mock

import pytest
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.queue_parts import Sending

from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_message import Message
from ipcd.state.queue_order import Ready
from ipcd.state.queue_waiters import Delivered, Receiver
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
