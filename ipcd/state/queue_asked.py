"""What callers ask of queues, completed and checked. Pure."""

from __future__ import annotations

from typing import Final

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.errors import BadRequest

from ipcd import limits
from ipcd.state.queue_message import Message
from ipcd.state.quota import Owner

# Where options say nothing.
MESSAGES: Final = 1024
BYTES: Final = 16 << 20
LEASE: Final = 30.0
PRIORITIES: Final = 32
_TYPES: Final = 1 << 63


def completed(options: pb.QueueOptions) -> pb.QueueOptions:
    """The options with what they leave out.

    Raises:
        BadRequest: they make no sense.
    """
    full = pb.QueueOptions()
    full.CopyFrom(options)
    full.messages = options.messages or MESSAGES
    full.bytes = options.bytes or BYTES
    full.lease = options.lease or LEASE
    if full.messages > limits.QUEUE_MESSAGES:
        raise BadRequest(f"a queue has room for at most {limits.QUEUE_MESSAGES} messages, not {full.messages}")
    if full.bytes > limits.QUEUE_BYTES:
        raise BadRequest(f"a queue has room for at most {limits.QUEUE_BYTES} bytes, not {full.bytes}")
    checked_lease(full.lease)
    if full.when_full not in pb.QueueFull.values():
        raise BadRequest(f"{full.when_full} is nothing that can be done when a queue is full")
    if full.deliveries and not full.dead_letters:
        raise BadRequest("deliveries are counted for dead_letters: the name of a queue")
    if full.dead_letters and not full.deliveries:
        raise BadRequest("dead_letters goes with deliveries: after how many a message goes there")
    return full


def checked_lease(lease: float) -> float:
    """The lease, if it is one.

    Raises:
        BadRequest: it is none.
    """
    if not 0 < lease <= limits.QUEUE_LEASE:
        raise BadRequest(f"a lease is between 0 and {limits.QUEUE_LEASE:g} s, not {lease:g}")
    return lease


def checked_type(type_: int) -> int:
    """The type of messages that somebody wants, if it is one.

    Raises:
        BadRequest: its negative is none.
    """
    if type_ == -_TYPES:
        raise BadRequest(f"{type_} is the negative of no type")
    return type_


def checked_delay(delay: float) -> float:
    """The delay, if it is one.

    Raises:
        BadRequest: it is none.
    """
    if not 0 <= delay <= limits.QUEUE_DELAY:
        raise BadRequest(f"a delay is between 0 and {limits.QUEUE_DELAY:g} s, not {delay:g}")
    return delay


def message_of(draft: pb.QueueDraft, owner: Owner, now: float) -> Message:
    """What somebody sends.

    Raises:
        BadRequest: it makes no sense.
    """
    if draft.priority >= PRIORITIES:
        raise BadRequest(f"a priority is between 0 and {PRIORITIES - 1}, not {draft.priority}")
    if draft.type < 0:
        raise BadRequest(f"the type of a message is 1 or more, not {draft.type}")
    delay = checked_delay(draft.delay)
    if len(draft.data) > limits.QUEUE_MESSAGE:
        raise BadRequest(f"a message has at most {limits.QUEUE_MESSAGE} bytes, not {len(draft.data)}")
    return Message(draft.priority, draft.type or 1, draft.data, owner, now, until=now + delay if delay else 0.0)
