"""What both faces of a queue share: its options, requests, replies, and which step comes next. Without a channel."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.errors import BadRequest, Lost, PrimitiveError, TimedOut

WhenFull = Literal["block", "fail", "drop-oldest", "drop-newest"]
WHEN_FULL: Final[dict[str, pb.QueueFull]] = {
    "block": pb.QUEUE_FULL_BLOCK,
    "fail": pb.QUEUE_FULL_FAIL,
    "drop-oldest": pb.QUEUE_FULL_DROP_OLDEST,
    "drop-newest": pb.QUEUE_FULL_DROP_NEWEST,
}
_FULL_NAMES: Final = {number: name for name, number in WHEN_FULL.items()}
# Of one request: messages, and bytes of their data, except where one alone has more.
BATCH: Final = 1024
BATCH_BYTES: Final = 2 << 20
# Seconds for which an acknowledgement is tried again while the node does not answer, and between two attempts.
CONFIRM: Final = 10.0
CONFIRM_PAUSE: Final = 0.1
# Seconds that what is left of a batch waits for room when the time is over.
_LAST: Final = 0.001


class NotAll(PrimitiveError):
    """Some of several messages were sent, and the others not: the cause says why. `ids` are of those that were."""

    def __init__(self, ids: list[int], total: int, why: Exception) -> None:
        super().__init__(f"{len(ids)} of {total} messages were sent: {why}")
        self.ids = ids


class Draft(NamedTuple):
    """A message to be sent with others. `delay`: seconds before it can be received."""

    data: bytes | bytearray | memoryview
    priority: int = 0
    type: int = 1
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Stat:
    """What there is in a queue, and how it was made.

    `ready`, `delayed`, `held`: messages that can be received, are not due, and are with a receiver. `bytes`: of all of
    them. `receivers`, `senders`: calls that wait. Then, since it was made or its daemon was started: `sent`,
    `delivered`, `returned` (given back, or not acknowledged in time), `dropped` (for want of room), `dead`.
    """

    name: str
    node: str
    ready: int
    delayed: int
    held: int
    bytes: int
    receivers: int
    senders: int
    sent: int
    delivered: int
    returned: int
    dropped: int
    dead: int
    max_messages: int
    max_bytes: int
    when_full: str
    lease: float
    deliveries: int
    dead_letters: str
    durable: bool

    def __len__(self) -> int:
        return self.ready + self.delayed + self.held


def stat_of(reply: pb.QueueStat) -> Stat:
    """From a reply."""
    options = reply.options
    return Stat(
        name=reply.name,
        node=reply.node,
        ready=reply.ready,
        delayed=reply.delayed,
        held=reply.held,
        bytes=reply.bytes,
        receivers=reply.receivers,
        senders=reply.senders,
        sent=reply.sent,
        delivered=reply.delivered,
        returned=reply.returned,
        dropped=reply.dropped,
        dead=reply.dead,
        max_messages=options.messages,
        max_bytes=options.bytes,
        when_full=_FULL_NAMES.get(options.when_full, str(options.when_full)),
        lease=options.lease,
        deliveries=options.deliveries,
        dead_letters=options.dead_letters,
        durable=options.durable,
    )


def options_of(
    max_messages: int,
    max_bytes: int,
    when_full: str,
    lease: float,
    deliveries: int,
    dead_letters: str,
    durable: bool,
) -> pb.QueueOptions:
    """How a queue is to be made.

    Raises:
        BadRequest: one is not of these.
    """
    full = WHEN_FULL.get(when_full)
    if full is None:
        raise BadRequest(f"when_full is one of {', '.join(WHEN_FULL)}, not {when_full!r}")
    try:
        return pb.QueueOptions(
            messages=max_messages,
            bytes=max_bytes,
            when_full=full,
            lease=lease,
            deliveries=deliveries,
            dead_letters=dead_letters,
            durable=durable,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from error


def draft_of(item: Any) -> pb.QueueDraft:
    """What is sent, from bytes or a `Draft`.

    Raises:
        BadRequest: a number is out of range.
        TypeError: it is neither.
    """
    draft = item if isinstance(item, Draft) else Draft(item)
    data = draft.data if isinstance(draft.data, bytes) else bytes(memoryview(draft.data))  # which no number or text is
    if draft.type < 1:
        raise BadRequest(f"the type of a message is 1 or more, not {draft.type}")
    try:
        return pb.QueueDraft(data=data, priority=draft.priority, type=draft.type, delay=draft.delay)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def receiving(
    name: str, type_: int, most: int, wait: float | None, ack: bool, lease: float, create: pb.QueueOptions | None
) -> pb.QueueReceiveRequest:
    """A request to receive.

    Raises:
        BadRequest: a number is out of range.
    """
    try:
        return pb.QueueReceiveRequest(
            name=name,
            type=type_,
            most=most,
            wait=wait,
            take=pb.QUEUE_TAKE_CONFIRM if ack else pb.QUEUE_TAKE_HOLD,
            lease=lease,
            create=create,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from error


class Until:
    """The time that is left of a wait, which is None where it is for ever."""

    def __init__(self, wait: float | None) -> None:
        self._end = None if wait is None else time.monotonic() + wait

    def left(self) -> float | None:
        """Seconds."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class Sending:
    """Messages on their way, in as many requests as it takes."""

    def __init__(self, name: str, items: Iterable[Any], wait: float | None, create: pb.QueueOptions | None) -> None:
        self.ids: list[int] = []
        self._drafts = [draft_of(item) for item in items]
        self._name = name
        self._wait = wait
        self._until = Until(wait)
        self._create = create

    def request(self) -> tuple[pb.QueueSendRequest, float | None] | None:
        """The next one, and for how long it may wait; None when all are sent."""
        first = len(self.ids)
        if first >= len(self._drafts):
            return None
        last, size = first, 0
        while last < len(self._drafts) and last - first < BATCH:
            size += len(self._drafts[last].data)
            if last > first and size > BATCH_BYTES:
                break
            last += 1
        # The first one as it was said, so that the answer has the caller's number. A caller that waits never asks not
        # to wait, which would be answered otherwise.
        wait = self._until.left() if first else self._wait
        if wait == 0 and self._wait:
            wait = _LAST
        request = pb.QueueSendRequest(
            name=self._name, messages=self._drafts[first:last], wait=wait, create=self._create
        )
        return request, wait

    def got(self, reply: pb.QueueSendReply) -> None:
        """The answer to it."""
        self.ids += reply.ids

    def failed(self, error: Exception) -> Exception:
        """What the caller is told."""
        return NotAll(self.ids, len(self._drafts), error) if self.ids else error


def settling(
    name: str, receipts: Sequence[pb.QueueReceipt], how: pb.QueueSettleRequest.How, seconds: float, *, again: bool
) -> pb.QueueSettleRequest:
    """A request about messages that are held."""
    return pb.QueueSettleRequest(name=name, receipts=receipts, how=how, seconds=seconds, again=again)


def check_settled(reply: pb.QueueSettleReply, name: str) -> None:
    """
    Raises:
        Lost: one was not held any more.
    """
    if reply.lost:
        numbers = ", ".join(map(str, reply.lost))
        raise Lost(f"message {numbers} of queue {name} is not held any more: its lease was over, or it was removed")


def none_left(name: str) -> TimedOut:
    """All that came went to others meanwhile, and the time is over."""
    return TimedOut(f"no message came to queue {name} in time")


@dataclass(frozen=True, slots=True)
class Received:
    """A message. `sent`: seconds since the epoch, by the clock of the queue's node. `deliveries`: how often it was
    received, this time included; 0 of one that was only looked at. `acknowledged`: the queue's node has said so, and it
    will not come again."""

    data: bytes
    priority: int
    type: int
    id: int
    deliveries: int
    sent: float
    tag: int
    acknowledged: bool

    def __bytes__(self) -> bytes:
        return self.data

    @property
    def receipt(self) -> pb.QueueReceipt:
        """For who settles it."""
        return pb.QueueReceipt(id=self.id, tag=self.tag)

    def not_given_back(self, failure: Exception) -> str:
        """What is added to the error for which it should have been: that one is raised."""
        return f"ipcd: message {self.id} was not given back, and comes again when its lease is over: {failure}"


def receipts_of(messages: Iterable[pb.QueueMessage]) -> list[pb.QueueReceipt]:
    """For who settles them."""
    return [pb.QueueReceipt(id=message.id, tag=message.tag) for message in messages]


def fields_of(message: pb.QueueMessage, *, acknowledged: bool = False) -> dict[str, Any]:
    """Of a `Received`."""
    return {
        "data": message.data,
        "priority": message.priority,
        "type": message.type,
        "id": message.id,
        "deliveries": message.deliveries,
        "sent": message.sent,
        "tag": message.tag,
        "acknowledged": acknowledged,
    }
