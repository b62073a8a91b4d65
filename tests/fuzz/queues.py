"""Queues, as callers that say what they like ask for them: any requests, in any order, however they wait."""

from __future__ import annotations

from typing import Final

from fuzz.registry import target
from fuzz.things import TIME, Things, World, drive, methods
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb

from ipcd import limits
from ipcd.primitives.queue import QueueServicer


def _check(world: World) -> None:
    """What is kept is bounded, and counted."""
    boxes = world.servicer._boxes
    used = 0
    for box in boxes._boxes.values():
        queue = box.queue
        assert len(queue) <= queue.options.messages <= limits.QUEUE_MESSAGES
        assert queue.bytes <= queue.options.bytes <= limits.QUEUE_BYTES
        for timed in (queue._in._held, queue._in._delayed):
            assert len(timed._heap.all) <= 2 * len(timed) + 65
        assert min(queue.ready, queue.held, queue.delayed) >= 0
        assert not queue.events
        for part in (queue._in.ready, queue._in._delayed, queue._in._held):
            used += sum(message.cost for message in part.messages.values())
        used += sum(message.cost for sender in queue._senders for message in sender.messages)
    assert boxes._bytes.used == used


async def _clear(world: World) -> None:
    boxes = world.servicer._boxes
    assert sorted(world.kept) == sorted(boxes._boxes)
    for name in world.kept:
        await boxes.free(boxes.remove(boxes._boxes[name]))


_QUEUES: Final = Things(
    lambda world: QueueServicer(world.keeper),
    methods(pb, "Queue"),
    _check,
    _clear,
)
_GOOD: Final = (
    _QUEUES.call("Create", pb.QueueCreateRequest(name="a", options={"messages": 2, "bytes": 9})),
    _QUEUES.call("Create", pb.QueueCreateRequest(name="a", options={"deliveries": 1, "dead_letters": "b"})),
    _QUEUES.call("Send", pb.QueueSendRequest(name="a", messages=[{"data": b"x"}, {"type": 3, "priority": 9}])),
    _QUEUES.call("Send", pb.QueueSendRequest(name="a", messages=[{"delay": 2.0}], create={"when_full": 2})),
    _QUEUES.call("Receive", pb.QueueReceiveRequest(name="a", most=2, take=pb.QUEUE_TAKE_HOLD, lease=1.0)),
    _QUEUES.call("Receive", pb.QueueReceiveRequest(name="a", type=-3)),
    _QUEUES.call("Settle", pb.QueueSettleRequest(name="a", receipts=[{"id": 1, "tag": 1}], how="NACK", seconds=1.0)),
    _QUEUES.call("Settle", pb.QueueSettleRequest(name="a", receipts=[{"id": 1, "tag": 1}])),
    _QUEUES.call("Remove", pb.QueueRemoveRequest(name="a")),
    _QUEUES.call("Notify", pb.QueueNotifyRequest(name="a", create={})),
    _QUEUES.step(TIME, b"\x10\x00"),
)


@target(
    "queue",
    _QUEUES.steps(_GOOD),
    words=(*_GOOD, b"\x0a\x01a", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x19" + b"\xff" * 8),
    largest=2048,
)
def _queue(data: bytes) -> object:
    """The servicer, and the state machine below it."""
    return drive(_QUEUES, data)
