"""The shortest way of a call: one message each way in one frame each way, and nothing else.

Most calls are like that, and what they cost decides what ipcd costs. Such a call has no state but that it is open: its
`Stream` is made only when something else happens to it. What these methods do not take, for whatever reason, the
general ones of `Connection` do, or refuse; so no rule stands here alone.
"""

from __future__ import annotations

import struct
from typing import Final

from ipcd_client.frame import codec, events
from ipcd_client.frame.codec import HEADER_SIZE
from ipcd_client.frame.settings import MAX_TIMEOUT
from ipcd_client.frame.verbs import LAST_STREAM, Verbs

# The header once more, with type, descriptors and flags as one number.
_HEADER: Final = struct.Struct("<IIII")
_pack: Final = _HEADER.pack
_unpack: Final = _HEADER.unpack_from
_OPEN: Final = codec.OPEN | (codec.END | codec.WITH_MESSAGE) << 16
_OPEN_IN_TIME: Final = codec.OPEN | (codec.END | codec.WITH_MESSAGE | codec.WITH_TIMEOUT) << 16
_ANSWER: Final = codec.STATUS | codec.WITH_MESSAGE << 16
_TIMEOUT_SIZE: Final = 8


class Plain(Verbs):
    """See the module. What is received comes here as bytes: a whole frame, or anything else."""

    def open_plain(self, method: str, message: bytes, timeout: float | None) -> tuple[int, bytes] | None:
        """Opens a call whose only request is `message`: its stream, and the frame. None: ask `open`."""
        size = len(message)
        stream_id = self._next_stream
        method_id = self._method_ids.get(method)
        if (
            method_id is None  # the name must travel
            or size > self._plain_most
            or self._opened >= self.peer.max_streams
            or self.going_away
            or stream_id > LAST_STREAM
        ):
            return None
        self._next_stream = stream_id + 2
        self._opened += 1
        self._plain.add(stream_id)
        if timeout is None:
            return stream_id, _pack(size, stream_id, _OPEN, method_id) + message
        left = codec.pack_u64(int(min(max(0.0, timeout * 1e6), MAX_TIMEOUT)))
        return stream_id, _pack(size + _TIMEOUT_SIZE, stream_id, _OPEN_IN_TIME, method_id) + left + message

    def take_answer(self, data: bytes, stream_id: int) -> bytes | None:
        """Takes what ends that call well: its answer. None: it is something else, to be decoded and received."""
        size = len(data) - HEADER_SIZE
        if (
            not 0 <= size <= self._plain_in
            or _unpack(data) != (size, stream_id, _ANSWER, 0)
            or stream_id not in self._plain
        ):
            return None
        self._plain.remove(stream_id)
        self._opened -= 1
        return data[HEADER_SIZE:]

    def take_open(self, data: bytes) -> events.Opened | None:
        """Takes what opens such a call. None: it is something else, to be decoded and received."""
        size = len(data) - HEADER_SIZE
        if not 0 <= size <= self._plain_in:
            return None
        length, stream_id, kind, method_id = _unpack(data)
        timeout = None
        at = HEADER_SIZE
        if kind != _OPEN:
            at += _TIMEOUT_SIZE
            if kind != _OPEN_IN_TIME or size < _TIMEOUT_SIZE:
                return None
            timeout = min(int.from_bytes(data[HEADER_SIZE:at], "little"), MAX_TIMEOUT) / 1e6
        method = self._peer_methods.get(method_id)
        if (
            method is None
            or length != size
            or stream_id <= self._last_peer_stream
            or stream_id & 1 != self._peer_parity
            or self._accepted >= self._most_streams
            or self.draining
        ):
            return None
        self._last_peer_stream = stream_id
        self._plain.add(stream_id)
        self._accepted += 1
        return stream_id, method, timeout, (), data[at:], 0, True

    def answer_plain(self, stream_id: int, message: bytes) -> bytes | None:
        """Ends such a call well, with its answer: the frame. None: ask `status`."""
        size = len(message)
        if size > self._plain_most or stream_id not in self._plain:
            return None
        self._plain.remove(stream_id)
        self._accepted -= 1
        return _pack(size, stream_id, _ANSWER, 0) + message
