"""What another node says of its topics, of which nothing is believed unseen. Pure."""

from __future__ import annotations

from typing import Final

from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives import naming, subjects
from ipcd_client.primitives.errors import BadRequest

from ipcd import limits
from ipcd.state.quota import Owner
from ipcd.state.subscription import Message

# Seconds since the epoch: the end of the year 9999, behind which no calendar goes.
_LAST: Final = 253402300799.0


def message(node: str, told: topic_pb2.TopicMessage, owner: Owner, pattern: str = subjects.REST) -> Message:
    """A message that `node` says was published there, under a subject that `pattern` stands for. Whatever node it
    names, it is that one's.

    Raises:
        BadRequest: it makes no sense.
        LimitReached: it is too large.
    """
    if len(told.subject) > naming.MOST or subjects.subject(told.subject) != told.subject:
        raise BadRequest(f"it names a subject that is none: {told.subject[: naming.MOST]!r}")
    if not subjects.matches(pattern, told.subject):
        raise BadRequest(f"{told.subject!r} is not what was asked for: {pattern!r}")
    if not 0 <= told.time <= _LAST:
        raise BadRequest(f"{told.time!r} is not the time of a message")
    limits.check("bytes of a message", len(told.data), limits.TOPIC_MESSAGE)
    return Message(told.subject, told.data, node, told.sequence, told.time, owner)
