"""The shortest way of a call: one message each way in one frame each way, and nothing else.

Most calls are like that, and what they cost decides what ipcd costs. Such a call has no state but that it is open: its
`Stream` is made only when something else happens to it. What these methods do not take, for whatever reason, the
general ones of `Connection` do, or refuse; so no rule stands here alone.
"""

from __future__ import annotations

from typing import Final

from ipcd_client.frame import codec, events
from ipcd_client.frame.codec import HEADER, Frame
from ipcd_client.frame.settings import MAX_TIMEOUT
from ipcd_client.frame.verbs import LAST_STREAM, Verbs

_WHOLE: Final = codec.END | codec.WITH_MESSAGE
_WHOLE_IN_TIME: Final = codec.END | codec.WITH_MESSAGE | codec.WITH_TIMEOUT
_TIMEOUT_SIZE: Final = 8
_new: Final = tuple.__new__
_pack: Final = HEADER.pack


class Plain(Verbs):
    """See the module."""

    def open_plain(self, method: str, message: bytes, timeout: float | None) -> tuple[int, bytes] | None:
        """Opens a call whose only request is `message`: its stream, and the frame. None: ask `open`."""
        size = len(message)
        stream_id = self._next_stream
        method_id = self._method_ids.get(method)
        if (
            method_id is None  # the name must travel
            or size > self._plain_most
            or self.going_away
            or self._opened >= self.peer.max_streams
            or stream_id > LAST_STREAM
        ):
            return None
        self._next_stream = stream_id + 2
        self._opened += 1
        self._plain.add(stream_id)
        if timeout is None:
            return stream_id, _pack(size, stream_id, codec.OPEN, 0, _WHOLE, method_id) + message
        left = codec.pack_u64(int(min(max(0.0, timeout * 1e6), MAX_TIMEOUT)))
        header = _pack(size + _TIMEOUT_SIZE, stream_id, codec.OPEN, 0, _WHOLE_IN_TIME, method_id)
        return stream_id, header + left + message

    def take_answer(self, frame: Frame) -> bytes | None:
        """Takes a frame that ends such a call well: the answer. None: `receive` it."""
        type_, stream_id, flags, code, fds, payload = frame
        if (
            type_ != codec.STATUS
            or flags != codec.WITH_MESSAGE
            or code
            or fds
            or stream_id not in self._plain
            or stream_id & 1 == self._peer_parity
            or len(payload) > self._max_message
            or self._failed is not None
        ):
            return None
        self._plain.remove(stream_id)
        self._opened -= 1
        return payload

    def take_open(self, frame: Frame) -> events.CallOpened | None:
        """Takes a frame that opens such a call. None: `receive` it."""
        type_, stream_id, flags, method_id, fds, payload = frame
        if (
            type_ != codec.OPEN
            or fds
            or stream_id <= self._last_peer_stream
            or stream_id & 1 != self._peer_parity
            or self._accepted >= self._most_streams
            or self.draining
            or self._failed is not None
        ):
            return None
        timeout = None
        if flags != _WHOLE:
            if flags != _WHOLE_IN_TIME or len(payload) < _TIMEOUT_SIZE:
                return None
            timeout = min(int.from_bytes(payload[:_TIMEOUT_SIZE], "little"), MAX_TIMEOUT) / 1e6
            payload = payload[_TIMEOUT_SIZE:]
        method = self._peer_methods.get(method_id)
        if method is None or len(payload) > self._max_message:
            return None
        self._last_peer_stream = stream_id
        self._plain.add(stream_id)
        self._accepted += 1
        event: events.CallOpened = _new(events.CallOpened, (stream_id, method, timeout, (), payload, 0, True))
        return event

    def answer_plain(self, stream_id: int, message: bytes) -> bytes | None:
        """Ends such a call well, with its answer: the frame. None: ask `status`."""
        size = len(message)
        if stream_id not in self._plain or size > self._plain_most:
            return None
        self._plain.remove(stream_id)
        self._accepted -= 1
        return _pack(size, stream_id, codec.STATUS, 0, codec.WITH_MESSAGE, 0) + message
