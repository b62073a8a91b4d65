"""One connection as a state machine: frames in, events out; verbs in, buffers to send out.

Pure: no socket, no clock, no thread. Either end may call, unless `Settings.accept_calls` says no. The end
that dialed opens odd streams, the other even ones. The transitions of a stream are the table in `stream.py`;
they judge what we send as well as what we receive. Every violation is a `ProtocolError` with a name from
proto/FRAME.md section 8, after which the connection refuses every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, events, hello
from ipcd_client.frame.codec import Buffer, Frame, MetadataTooLarge
from ipcd_client.frame.plain import Plain
from ipcd_client.frame.settings import (
    GOAWAY_DRAIN,
    MAX_ANSWERS,
    MAX_METHOD_ID,
    MAX_NAME,
    MAX_REASON,
    MAX_TIMEOUT,
    RESET_CANCEL,
    RESET_REFUSED,
)
from ipcd_client.frame.stream import Half, Stream, advance
from ipcd_client.frame.verbs import EXHAUSTED, StreamsExhausted

__all__ = ["Connection", "StreamsExhausted"]

_NO_METADATA: Final[events.Received] = ()
_new: Final = tuple.__new__  # half the time that the class itself takes
_OF_PIECES: Final = codec.FIRST | codec.MORE


class Connection(Plain):
    """The receiving half, on top of the sending one: together the state of one end."""

    def receive(self, frame: Frame) -> events.Event | None:
        """Takes one frame from the peer.

        Raises:
            ProtocolError: the peer broke a rule. From then on, every frame raises the same error.
        """
        if self._failed is not None:
            # Without the traceback, which would grow each time.
            raise self._failed.with_traceback(None)
        try:
            if frame.fds and not (self.settings.accept_fds and frame.type in codec.WITH_FDS):
                raise ProtocolError("unexpected-fds", f"{codec.NAMES[frame.type]} with {frame.fds} descriptors")
            if not self._hello_received and frame.type not in (codec.HELLO, codec.GOAWAY):
                raise ProtocolError("no-hello", f"{codec.NAMES[frame.type]} before HELLO")
            return self._HANDLERS[frame.type](self, frame)
        except ProtocolError as error:
            self._failed = error
            raise

    def _on_hello(self, frame: Frame) -> events.Event:
        if self._hello_received:
            raise ProtocolError("second-hello", "HELLO came twice")
        if frame.stream:
            raise ProtocolError("bad-hello", f"HELLO on stream {frame.stream}")
        self.version, self.peer = hello.agree(bytes(frame.payload))
        self._hello_received = True
        # Both the codec's bound for a copy, and what leaves room for a deadline in the peer's frames.
        self._plain_most = min(codec.JOIN_BELOW, self.peer.max_frame - codec.HEADER_SIZE)
        return events.HelloReceived(self.version, self.peer.software)

    def _on_open(self, frame: Frame) -> events.Event | None:
        stream_id, flags = frame.stream, frame.flags
        if stream_id & 1 != self._peer_parity or stream_id <= self._last_peer_stream:
            raise ProtocolError("bad-stream-id", f"OPEN of stream {stream_id} after {self._last_peer_stream}")
        self._last_peer_stream = stream_id
        if not self.settings.accept_calls:
            raise ProtocolError("calls-not-accepted", "OPEN on a connection that takes no calls")
        too_large = ""
        if flags & (codec.WITH_NAME | codec.WITH_TIMEOUT | codec.WITH_METADATA):
            reader = codec.Reader(frame.payload, "OPEN")
            if flags & codec.WITH_NAME:
                self._intern(frame.aux, reader)
            timeout = min(reader.u64(), MAX_TIMEOUT) / 1e6 if flags & codec.WITH_TIMEOUT else None
            metadata = _NO_METADATA
            if flags & codec.WITH_METADATA:
                try:
                    metadata = reader.metadata(self.settings.max_metadata)
                except MetadataTooLarge as error:
                    too_large = str(error)
            message = reader.rest() if flags & codec.WITH_MESSAGE else None
            if message is None:
                reader.end()
        else:
            timeout, metadata = None, _NO_METADATA
            message = frame.payload if flags & codec.WITH_MESSAGE else None
            if message is None and frame.payload:
                raise ProtocolError("long-payload", f"OPEN: {len(frame.payload)} bytes left over")
        method = self._peer_methods.get(frame.aux)
        if method is None:
            raise ProtocolError("unknown-method-id", f"OPEN with method id {frame.aux}")
        if self.draining or self._accepted >= self.settings.max_streams:
            # Late calls after our goaway are as innocent as those past the limit are not, but both were never
            # begun: the caller may try elsewhere.
            reason = "draining" if self.draining else f"max_streams of {self.settings.max_streams} reached"
            self._answer(codec.encode(codec.RESET, stream_id, reason.encode(), aux=RESET_REFUSED))
            return None
        if too_large:
            # As with the refusal, the call never begins here.
            details = codec.with_length(f"Received initial {too_large}".encode())
            self._answer(codec.encode(codec.STATUS, stream_id, details, codec.WITH_DETAILS, EXHAUSTED))
            return None
        oversize = 0
        if message is not None and 0 <= self.settings.max_message < len(message):
            oversize, message = len(message), None
        end = bool(flags & codec.END)
        stream = Stream(stream_id, False, self.peer.initial_window, self.settings.initial_window)
        if end:
            stream.request = Half.CLOSED
        self._streams[stream_id] = stream
        self._accepted += 1
        return events.CallOpened(stream_id, method, timeout, metadata, message, oversize, end)

    def _intern(self, method_id: int, reader: codec.Reader) -> None:
        size = reader.u16()
        if size > MAX_NAME:
            raise ProtocolError("long-name", f"a method's name of {size} bytes, the limit is {MAX_NAME}")
        if method_id > MAX_METHOD_ID:
            raise ProtocolError("too-many-methods", f"method id {method_id}, the last one is {MAX_METHOD_ID}")
        self._peer_methods[method_id] = reader.text(size)

    def unfinished(self) -> int:
        """Bytes of messages that have begun to come, and are not whole."""
        return sum(len(stream.pieces) for stream in self._streams.values() if stream.pieces)

    def named(self) -> int:
        """Bytes of the methods' names that the peer has given: they are kept as long as the connection lasts."""
        return sum(map(len, self._peer_methods.values()))

    def _answer(self, buffers: list[Buffer]) -> None:
        if len(self.outbox) >= MAX_ANSWERS:
            raise ProtocolError("unread-answers", f"{len(self.outbox)} answers wait for the peer to read them")
        self.outbox += buffers

    def _stream_of(self, frame: Frame) -> Stream | None:
        """The frame's stream; None if it has ended here, which the sender may not have known."""
        stream = self._stream(frame.stream)
        if stream is None:
            ours = frame.stream & 1 != self._peer_parity
            if not frame.stream or (
                frame.stream >= self._next_stream if ours else frame.stream > self._last_peer_stream
            ):
                raise ProtocolError("unopened-stream", f"{codec.NAMES[frame.type]} on stream {frame.stream}")
        return stream

    def _on_message(self, frame: Frame) -> events.Event | None:
        stream = self._streams.get(frame.stream) or self._stream_of(frame)
        if stream is None:
            return None
        flags, payload = frame.flags, frame.payload
        if flags & _OF_PIECES or stream.pieces is not None:
            return self._on_piece(stream, frame)
        size = len(payload)
        by_caller = not stream.opened_here
        advance(stream, by_caller, codec.MESSAGE, False, sending=False)
        stream.receive.receive(size)
        end = bool(flags & codec.END)
        if end:
            advance(stream, by_caller, codec.CLOSE_SEND, True, sending=False)
        if 0 <= self.settings.max_message < size:
            return events.MessageReceived(frame.stream, None, size, end)
        event: events.MessageReceived = _new(events.MessageReceived, (frame.stream, payload, 0, end))
        return event

    def _on_piece(self, stream: Stream, frame: Frame) -> events.Event | None:
        flags, size = frame.flags, len(frame.payload)
        more, end = bool(flags & codec.MORE), bool(flags & codec.END)
        if more and end:
            raise ProtocolError("bad-pieces", "MESSAGE with both MORE and END")
        if frame.fds:
            raise ProtocolError("unexpected-fds", f"{frame.fds} descriptors with a piece of a message")
        if stream.pieces is None:
            if not flags & codec.FIRST:
                raise ProtocolError("bad-pieces", "a piece without a first one")
            if not more or frame.aux <= size:
                raise ProtocolError("bad-pieces", f"first of several pieces: {size} of {frame.aux} bytes")
            advance(stream, not stream.opened_here, codec.MESSAGE, False, sending=False)
            stream.receive.receive(frame.aux)
            stream.begin_pieces(frame.aux, keep=not 0 <= self.settings.max_message < frame.aux)
        elif flags & codec.FIRST:
            raise ProtocolError("bad-pieces", "a first piece in the middle of a message")
        if not stream.add_piece(frame.payload, last=not more):
            return None
        message, whole = stream.take_pieces()
        if end:
            advance(stream, not stream.opened_here, codec.CLOSE_SEND, True, sending=False)
        return events.MessageReceived(frame.stream, message, 0 if message is not None else whole, end)

    def _on_close_send(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        if frame.payload:
            raise ProtocolError("long-payload", f"CLOSE_SEND: {len(frame.payload)} bytes left over")
        stream.no_pieces()
        advance(stream, not stream.opened_here, codec.CLOSE_SEND, True, sending=False)
        return events.SendClosed(frame.stream)

    def _on_headers(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        advance(stream, not stream.opened_here, codec.HEADERS, False, sending=False)
        reader = codec.Reader(frame.payload, "HEADERS")
        try:
            metadata = reader.metadata(self.settings.max_metadata)
        except MetadataTooLarge as error:
            self._answer(self.reset(frame.stream, RESET_CANCEL, "metadata over the limit"))
            return self._exhausted(frame.stream, f"Received initial {error}")
        reader.end()
        return events.HeadersReceived(frame.stream, metadata)

    @staticmethod
    def _exhausted(stream_id: int, details: str) -> events.Event:
        return events.StatusReceived(stream_id, EXHAUSTED, details, None, _NO_METADATA, None, 0)

    def _on_status(self, frame: Frame) -> events.Event | None:
        stream = self._streams.get(frame.stream) or self._stream_of(frame)
        if stream is None:
            return None
        flags = frame.flags
        stream.no_pieces()
        advance(stream, not stream.opened_here, codec.STATUS, False, sending=False)
        headers: events.Received | None = None
        trailing, details = _NO_METADATA, ""
        if flags & (codec.WITH_HEADERS | codec.WITH_METADATA | codec.WITH_DETAILS):
            reader = codec.Reader(frame.payload, "STATUS")
            try:
                if flags & codec.WITH_HEADERS:
                    headers = reader.metadata(self.settings.max_metadata)
                if flags & codec.WITH_METADATA:
                    trailing = reader.metadata(self.settings.max_metadata)
            except MetadataTooLarge as error:
                self._drop(stream)
                return self._exhausted(frame.stream, f"Received {error}")
            if flags & codec.WITH_DETAILS:
                details = reader.text(reader.u32())
            message = reader.rest() if flags & codec.WITH_MESSAGE else None
            if message is None:
                reader.end()
        else:
            message = frame.payload if flags & codec.WITH_MESSAGE else None
            if message is None and frame.payload:
                raise ProtocolError("long-payload", f"STATUS: {len(frame.payload)} bytes left over")
        if message is not None and 0 <= self.settings.max_message < len(message):
            oversize, message = len(message), None
        else:
            oversize = 0
        self._drop(stream)
        return events.StatusReceived(frame.stream, frame.aux, details, headers, trailing, message, oversize)

    def _on_reset(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        self._drop(stream)
        return events.ResetReceived(frame.stream, frame.aux, frame.payload[:MAX_REASON].decode("utf-8", "replace"))

    def _on_window(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        if frame.payload:
            raise ProtocolError("long-payload", f"WINDOW: {len(frame.payload)} bytes left over")
        stream.send.grant(frame.aux)
        return events.CreditReceived(frame.stream)

    def _on_ping(self, frame: Frame) -> events.Event | None:
        if len(frame.payload) != 8 or frame.stream:
            raise ProtocolError("bad-ping", f"PING of {len(frame.payload)} bytes on stream {frame.stream}")
        if frame.flags & codec.ACK:
            return events.PongReceived(bytes(frame.payload))
        self._answer(codec.encode(codec.PING, 0, frame.payload, codec.ACK))
        return None

    def _on_goaway(self, frame: Frame) -> events.Event:
        last = frame.stream
        ours = not last or (last & 1 != self._peer_parity and last < self._next_stream)
        if not ours or (last and frame.aux != GOAWAY_DRAIN):
            raise ProtocolError("bad-goaway", f"GOAWAY on stream {last}")
        self.going_away = True
        refused: list[Stream] = []
        if frame.aux == GOAWAY_DRAIN:  # no other code says how far the peer has come
            for stream_id in list(self._plain):
                self._stream(stream_id)
            behind = [stream for stream in self._streams.values() if stream.opened_here and stream.id > last]
            # As they were opened, whichever way that was.
            refused = sorted(behind, key=lambda stream: stream.id)
        for stream in refused:
            self._drop(stream)
        reason = frame.payload[:MAX_REASON].decode("utf-8", "replace")
        return events.GoAwayReceived(frame.aux, reason, tuple(stream.id for stream in refused))

    _HANDLERS: ClassVar[dict[int, Callable[[Connection, Frame], events.Event | None]]] = {
        codec.HELLO: _on_hello,
        codec.OPEN: _on_open,
        codec.MESSAGE: _on_message,
        codec.CLOSE_SEND: _on_close_send,
        codec.HEADERS: _on_headers,
        codec.STATUS: _on_status,
        codec.RESET: _on_reset,
        codec.WINDOW: _on_window,
        codec.PING: _on_ping,
        codec.GOAWAY: _on_goaway,
    }
