"""One call on a connection: its two directions, its credit, and a message that comes in pieces.

The request goes from the end that opened the stream to the other, the reply back. Each is a `Half` whose
transitions are `TRANSITIONS`; what is not there is an error, for us (`UsageError`) and for the peer
(`ProtocolError`). RESET ends both halves from any state, STATUS ends both too: an early answer ends an
endless request stream.
"""

from __future__ import annotations

import enum
from typing import Final

from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Payload
from ipcd_client.frame.window import ReceiveWindow, SendWindow


class Half(enum.IntEnum):
    """State of one direction. Integers, whose hashes cost no Python call: the tables below are asked for each frame."""

    AWAITING = enum.auto()  # reply: neither headers nor a message yet
    OPEN = enum.auto()
    CLOSED = enum.auto()


# The half a frame type moves, and from which state to which.
REQUEST: Final = {
    (Half.OPEN, codec.MESSAGE, False): Half.OPEN,
    (Half.OPEN, codec.MESSAGE, True): Half.CLOSED,
    (Half.OPEN, codec.CLOSE_SEND, True): Half.CLOSED,
}
REPLY: Final = {
    (Half.AWAITING, codec.HEADERS, False): Half.OPEN,
    (Half.AWAITING, codec.MESSAGE, False): Half.OPEN,
    (Half.OPEN, codec.MESSAGE, False): Half.OPEN,
    (Half.AWAITING, codec.STATUS, False): Half.CLOSED,
    (Half.OPEN, codec.STATUS, False): Half.CLOSED,
}


class Stream:
    """State of one call, at either end."""

    __slots__ = (
        "_filled",
        "_keep",
        "_size",
        "id",
        "opened_here",
        "pieces",
        "receive",
        "reply",
        "request",
        "send",
    )

    def __init__(self, stream_id: int, opened_here: bool, send_credit: int, receive_credit: int) -> None:
        self.id = stream_id
        self.opened_here = opened_here
        self.request = Half.OPEN
        self.reply = Half.AWAITING
        self.send = SendWindow(send_credit)
        self.receive = ReceiveWindow(receive_credit)
        # A message under way in pieces: what came of it, or nothing while it is thrown away for its size.
        self.pieces: bytearray | None = None
        self._keep: bool
        self._size: int
        self._filled: int

    def begin_pieces(self, size: int, *, keep: bool) -> None:
        """A message of `size` bytes begins to arrive. Nothing is allocated for what is only announced."""
        self.pieces = bytearray()
        self._keep = keep
        self._size = size
        self._filled = 0

    def add_piece(self, payload: Payload, *, last: bool) -> bool:
        """Takes the next piece; True when the message is whole."""
        end = self._filled + len(payload)
        if not payload or end > self._size or last != (end == self._size):
            which = "the last" if last else "not the last"
            raise ProtocolError("bad-pieces", f"{len(payload)} bytes, {end} of {self._size} in all, {which} piece")
        if self._keep and self.pieces is not None:
            self.pieces += payload
        self._filled = end
        return last

    def take_pieces(self) -> tuple[Payload | None, int]:
        """The whole message, None if it was thrown away; and its size."""
        message = self.pieces if self._keep else None
        self.pieces = None
        return message, self._size

    def no_pieces(self) -> None:
        """The peer may not end the direction in the middle of a message."""
        if self.pieces is not None:
            raise ProtocolError("bad-pieces", f"the stream ended after {self._filled} of {self._size} bytes")


def advance(stream: Stream, by_caller: bool, frame_type: int, end: bool, *, sending: bool) -> None:
    """Moves the half that the frame belongs to. `by_caller`: the frame is sent by the end that opened the
    stream."""
    if by_caller:
        after = REQUEST.get((stream.request, frame_type, end))
        if after is not None:
            stream.request = after
            return
        half = stream.request
    else:
        after = REPLY.get((stream.reply, frame_type, end))
        if after is not None:
            stream.reply = after
            return
        half = stream.reply
    side = "caller" if by_caller else "callee"
    text = f"{codec.NAMES[frame_type]}{' END' if end else ''} by the {side} on stream {stream.id} in state {half.name}"
    if sending:
        raise UsageError(text)
    raise ProtocolError("bad-transition", text)
