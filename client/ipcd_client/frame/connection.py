"""One connection as a state machine: frames in, events out; verbs in, buffers to send out.

Pure: no socket, no clock, no thread. Either end may call, unless `Settings.accept_calls` says no. The end that dialed
opens odd streams, the other even ones. The transitions of a stream are the table in `stream.py`; they judge what we
send as well as what we receive. Every violation is a `ProtocolError` with a name from proto/FRAME.md section 7, after
which the connection refuses everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame.codec import Buffer, Frame, Metadata
from ipcd_client.frame.settings import (
    GOAWAY_DRAIN,
    MAX_HELLO,
    MAX_VERSION,
    MIN_VERSION,
    RESET_REFUSED,
    Settings,
)
from ipcd_client.frame.stream import Half, Stream, advance
from ipcd_client.frame.window import COST
from ipcd_client.pb.ipcd.v1 import wire_pb2

LAST_STREAM: Final = 0xFFFF_FFF0
_NO_METADATA: Final[events.Received] = ()


class StreamsExhausted(UsageError):
    """All stream ids of this connection are used: make a new one."""


class Connection:
    """The state of one end.

    `outbox` gathers what must be sent in answer to received frames (acknowledgements of pings, refusals); the
    driver sends and clears it after each `receive`.
    """

    def __init__(self, *, dialer: bool, settings: Settings) -> None:
        self.settings = settings
        self.outbox: list[Buffer] = []
        self.version = 0
        self.peer = Settings(max_frame=MAX_HELLO, initial_window=0, max_streams=0)
        self.going_away = False  # the peer takes no new calls
        self.draining = False  # we take no new calls
        self._next_stream = 1 if dialer else 2
        self._last_peer_stream = 0
        self._peer_parity = 0 if dialer else 1
        self._streams: dict[int, Stream] = {}
        self._opened = 0  # calls of ours that are open
        self._accepted = 0  # calls of the peer that are open
        self._method_ids: dict[str, int] = {}
        self._peer_methods: dict[int, str] = {}
        self._hello_sent = False
        self._hello_received = False
        self._failed: ProtocolError | None = None

    # -- verbs: what we do ------------------------------------------------------------------------

    def hello(self) -> list[Buffer]:
        """The first frame, to be sent before any other."""
        if self._hello_sent:
            raise UsageError("hello was already sent")
        self._hello_sent = True
        settings = self.settings
        message = wire_pb2.Hello(
            min_version=MIN_VERSION,
            max_version=MAX_VERSION,
            max_frame=settings.max_frame,
            initial_window=settings.initial_window,
            max_streams=settings.max_streams if settings.accept_calls else 0,
            software=settings.software,
        )
        return codec.encode(codec.HELLO, 0, message.SerializeToString())

    @property
    def ready(self) -> bool:
        """Both hellos have passed: calls may be made."""
        return self._hello_received and self._hello_sent

    @property
    def idle(self) -> bool:
        """No call is open in either direction."""
        return not self._streams

    @property
    def accepted(self) -> int:
        """Calls of the peer that are open."""
        return self._accepted

    def open(
        self,
        method: str,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        message: Buffer | None = None,
        end: bool = False,
    ) -> tuple[int, list[Buffer]]:
        """Opens a call: its stream, and what to send. `timeout` in seconds.

        Raises:
            StreamsExhausted: no stream id is left.
            UsageError: before the peer's hello, after its goaway, or with as many calls open as the peer allows.
        """
        if not self._hello_received or self.going_away or self._opened >= self.peer.max_streams:
            raise UsageError(self._why_not_open())
        stream_id = self._next_stream
        if stream_id > LAST_STREAM:
            raise StreamsExhausted("all stream ids are used")
        flags = codec.END if end else 0
        sections: list[bytes] = []
        method_id = self._method_ids.get(method)
        if method_id is None:
            method_id = len(self._method_ids)
            # Past the limit an id is used again: the name travels each time, and replaces the last one.
            if method_id < self.settings.max_methods:
                self._method_ids[method] = method_id
            flags |= codec.WITH_NAME
            sections.append(codec.pack_name(method))
        if timeout is not None:
            flags |= codec.WITH_TIMEOUT
            sections.append(codec.pack_u64(max(0, min(int(timeout * 1e6), (1 << 63) - 1))))
        if metadata:
            flags |= codec.WITH_METADATA
            sections.append(codec.with_length(codec.encode_metadata(metadata)))
        stream = Stream(stream_id, True, self.peer.initial_window, self.settings.initial_window)
        pieces: list[Buffer] = []
        if message is not None:
            size = sum(map(len, sections)) + len(message)
            if size <= self.peer.max_frame:
                flags |= codec.WITH_MESSAGE
                if sections:
                    sections.append(bytes(message))
                    message = b"".join(sections)
                buffers = codec.encode(codec.OPEN, stream_id, message, flags, method_id)
                stream.request = Half.CLOSED if end else Half.OPEN
                self._add(stream_id, stream)
                return stream_id, buffers
            # Does not fit with the rest: goes behind, as any other message.
            flags &= ~codec.END
            pieces = self._pieces(stream, message, end)
        buffers = codec.encode(codec.OPEN, stream_id, b"".join(sections), flags, method_id)
        stream.request = Half.CLOSED if end else Half.OPEN
        self._add(stream_id, stream)
        return stream_id, buffers + pieces

    def _add(self, stream_id: int, stream: Stream) -> None:
        self._streams[stream_id] = stream
        self._next_stream = stream_id + 2
        self._opened += 1

    def _why_not_open(self) -> str:
        if self.going_away:
            return "the peer takes no new calls on this connection"
        if not self._hello_received:
            return "the peer has not said hello yet"
        if not self.peer.max_streams:
            return "the peer takes no calls on this connection"
        return f"{self._opened} calls are open, the peer allows {self.peer.max_streams} (max_streams)"

    def is_open(self, stream_id: int) -> bool:
        """The call has not ended for both ends."""
        return stream_id in self._streams

    def credit(self, stream_id: int) -> int:
        """Bytes of credit for sending; a message may be sent while it is above 0. A large number once it ended."""
        stream = self._streams.get(stream_id)
        return stream.send.credit if stream is not None else 1 << 30

    def message(self, stream_id: int, message: Buffer, *, end: bool = False, fds: int = 0) -> list[Buffer]:
        """Sends a message. Nothing, if the call has already ended: its last event tells why."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        advance(stream, stream.opened_here, codec.MESSAGE, end, sending=True)
        if fds:
            stream.send.spend(len(message))
            return codec.encode(codec.MESSAGE, stream_id, message, codec.END if end else 0, fds=fds)
        return self._pieces(stream, message, end)

    def _pieces(self, stream: Stream, message: Buffer, end: bool) -> list[Buffer]:
        size = len(message)
        stream.send.spend(size)
        limit = self.peer.max_frame
        last = codec.END if end else 0
        if size <= limit:
            return codec.encode(codec.MESSAGE, stream.id, message, last)
        view = memoryview(message)
        buffers: list[Buffer] = []
        for at in range(0, size, limit):
            flags = (codec.FIRST if at == 0 else 0) | (codec.MORE if at + limit < size else last)
            buffers += codec.encode(codec.MESSAGE, stream.id, view[at : at + limit], flags, size if at == 0 else 0)
        return buffers

    def close_send(self, stream_id: int) -> list[Buffer]:
        """The caller has no further message."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.request is Half.CLOSED:
            return []
        advance(stream, stream.opened_here, codec.CLOSE_SEND, True, sending=True)
        return codec.encode(codec.CLOSE_SEND, stream_id)

    def headers(self, stream_id: int, metadata: Metadata) -> list[Buffer]:
        """Sends initial metadata, before any message and at most once."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        advance(stream, stream.opened_here, codec.HEADERS, False, sending=True)
        return codec.encode(codec.HEADERS, stream_id, codec.with_length(codec.encode_metadata(metadata)))

    def status(
        self,
        stream_id: int,
        code: int,
        details: str = "",
        *,
        headers: Metadata | None = None,
        trailing: Metadata = (),
        message: Buffer | None = None,
        fds: int = 0,
    ) -> list[Buffer]:
        """Ends a call that the peer made. `headers`: initial metadata, if it was not sent before. `message`: the
        answer of a unary call. Nothing to send, if the call has already ended."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        buffers: list[Buffer] = []
        flags = 0
        sections: list[bytes] = []
        if headers and stream.reply is Half.AWAITING:
            flags |= codec.WITH_HEADERS
            sections.append(codec.with_length(codec.encode_metadata(headers)))
        if trailing:
            flags |= codec.WITH_METADATA
            sections.append(codec.with_length(codec.encode_metadata(trailing)))
        if details:
            flags |= codec.WITH_DETAILS
            sections.append(codec.with_length(details.encode("utf-8", "replace")))
        if message is not None:
            if sum(map(len, sections)) + len(message) <= self.peer.max_frame:
                flags |= codec.WITH_MESSAGE
                if sections:
                    message = b"".join([*sections, message])
            else:
                if flags & codec.WITH_HEADERS:
                    buffers = self.headers(stream_id, headers or ())
                    flags &= ~codec.WITH_HEADERS
                    del sections[0]
                buffers += self.message(stream_id, message)
                message = None
        advance(stream, stream.opened_here, codec.STATUS, False, sending=True)
        self._drop(stream)
        payload = b"".join(sections) if message is None else message
        return buffers + codec.encode(codec.STATUS, stream_id, payload, flags, code, fds)

    def reset(self, stream_id: int, code: int, reason: str = "") -> list[Buffer]:
        """Gives a call up, in either direction. Nothing to send, if it has already ended."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        self._drop(stream)
        return codec.encode(codec.RESET, stream_id, reason.encode("utf-8", "replace")[:1024], aux=code)

    def consumed(self, stream_id: int, size: int) -> list[Buffer]:
        """The application took a message of `size` bytes from MESSAGE frames: perhaps grants credit."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        credit = stream.receive.consume(size)
        # Towards a peer that sends nothing more, credit is of no use.
        finished = stream.reply if stream.opened_here else stream.request
        if not credit or finished is Half.CLOSED:
            return []
        return codec.encode(codec.WINDOW, stream_id, aux=credit)

    def ping(self, payload: bytes) -> list[Buffer]:
        """Asks for an answer with the same payload, 8 bytes."""
        return codec.encode(codec.PING, 0, payload)

    def drain(self, reason: str) -> list[Buffer]:
        """Takes no new calls from now on. Those under way go on."""
        if self.draining:
            return []
        self.draining = True
        return self.goaway(GOAWAY_DRAIN, reason)

    def goaway(self, code: int, reason: str) -> list[Buffer]:
        """Tells the peer why the connection ends."""
        return codec.encode(codec.GOAWAY, 0, reason.encode("utf-8", "replace")[:1024], aux=code)

    # -- what the peer does -----------------------------------------------------------------------

    def receive(self, frame: Frame) -> events.Event | None:
        """Takes one frame from the peer.

        Raises:
            ProtocolError: the peer broke a rule. From then on, every frame raises the same error.
        """
        if self._failed is not None:
            raise self._failed
        try:
            if frame.fds and not self.settings.accept_fds:
                raise ProtocolError("unexpected-fds", f"{codec.NAMES[frame.type]} with {frame.fds} descriptors")
            if not self._hello_received and frame.type not in (codec.HELLO, codec.GOAWAY):
                raise ProtocolError("no-hello", f"{codec.NAMES[frame.type]} before HELLO")
            return _HANDLERS[frame.type](self, frame)
        except ProtocolError as error:
            self._failed = error
            raise

    def _on_hello(self, frame: Frame) -> events.Event:
        if self._hello_received:
            raise ProtocolError("second-hello", "HELLO came twice")
        if len(frame.payload) > MAX_HELLO or frame.stream:
            raise ProtocolError("bad-hello", f"HELLO of {len(frame.payload)} bytes on stream {frame.stream}")
        try:
            hello = wire_pb2.Hello.FromString(frame.payload)
        except DecodeError as error:
            raise ProtocolError("bad-hello", f"HELLO does not parse: {error}") from None
        version = min(hello.max_version, MAX_VERSION)
        if version < max(hello.min_version, MIN_VERSION):
            raise ProtocolError(
                "no-common-version",
                f"the peer speaks {hello.min_version} to {hello.max_version}, this side {MIN_VERSION} to {MAX_VERSION}",
            )
        if hello.max_frame < MAX_HELLO or not COST <= hello.initial_window <= 1 << 30:
            raise ProtocolError("bad-hello", f"max_frame {hello.max_frame}, initial_window {hello.initial_window}")
        self.version = version
        self.peer = Settings(
            max_frame=hello.max_frame,
            initial_window=hello.initial_window,
            max_streams=hello.max_streams,
            software=hello.software[:200],
        )
        self._hello_received = True
        return events.HelloReceived(version, self.peer.software)

    def _on_open(self, frame: Frame) -> events.Event | None:
        stream_id, flags = frame.stream, frame.flags
        if stream_id & 1 != self._peer_parity or stream_id <= self._last_peer_stream:
            raise ProtocolError("bad-stream-id", f"OPEN of stream {stream_id} after {self._last_peer_stream}")
        self._last_peer_stream = stream_id
        if not self.settings.accept_calls:
            raise ProtocolError("calls-not-accepted", "OPEN on a connection that takes no calls")
        if flags & (codec.WITH_NAME | codec.WITH_TIMEOUT | codec.WITH_METADATA):
            reader = codec.Reader(frame.payload, "OPEN")
            if flags & codec.WITH_NAME:
                name = reader.text(reader.u16())
                if frame.aux >= self.settings.max_methods + 1:
                    raise ProtocolError("too-many-methods", f"method id {frame.aux}, the limit is {self.settings.max_methods}")
                self._peer_methods[frame.aux] = name
            timeout = reader.u64() / 1e6 if flags & codec.WITH_TIMEOUT else None
            metadata = reader.metadata() if flags & codec.WITH_METADATA else _NO_METADATA
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
            self.outbox += codec.encode(codec.RESET, stream_id, reason.encode(), aux=RESET_REFUSED)
            return None
        oversize = 0
        if message is not None and 0 <= self.settings.max_message < len(message):
            oversize, message = len(message), None
        end = bool(flags & codec.END)
        stream = Stream(stream_id, False, self.peer.initial_window, self.settings.initial_window)
        stream.request = Half.CLOSED if end else Half.OPEN
        self._streams[stream_id] = stream
        self._accepted += 1
        return events.CallOpened(stream_id, method, timeout, metadata, message, oversize, end)

    def _stream_of(self, frame: Frame) -> Stream | None:
        """The frame's stream; None if it has ended here, which the sender may not have known."""
        stream = self._streams.get(frame.stream)
        if stream is None:
            ours = frame.stream & 1 != self._peer_parity
            if not frame.stream or (frame.stream >= self._next_stream if ours else frame.stream > self._last_peer_stream):
                raise ProtocolError("unopened-stream", f"{codec.NAMES[frame.type]} on stream {frame.stream}")
        return stream

    def _on_message(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        flags, payload = frame.flags, frame.payload
        more, end = bool(flags & codec.MORE), bool(flags & codec.END)
        if more and end:
            raise ProtocolError("unknown-flags", "MESSAGE with both MORE and END")
        if stream.pieces is None:
            if flags & codec.FIRST:
                if not more or frame.aux <= len(payload):
                    raise ProtocolError("bad-pieces", f"first of several pieces: {len(payload)} of {frame.aux} bytes")
                size = frame.aux
            else:
                if more:
                    raise ProtocolError("bad-pieces", "a piece without a first one")
                size = len(payload)
            advance(stream, not stream.opened_here, codec.MESSAGE, False, sending=False)
            stream.receive.receive(size)
            too_large = 0 <= self.settings.max_message < size
            if more:
                stream.begin_pieces(size, too_large)
            elif not too_large:
                if end:
                    advance(stream, not stream.opened_here, codec.CLOSE_SEND, True, sending=False)
                return events.MessageReceived(frame.stream, payload, 0, end)
            else:
                return self._ended_message(stream, None, size, end)
        if not stream.add_piece(payload, first=bool(flags & codec.FIRST), last=not more):
            return None
        message, size = stream.take_pieces()
        return self._ended_message(stream, message, size, end)

    def _ended_message(self, stream: Stream, message: bytes | None, size: int, end: bool) -> events.Event:
        if end:
            advance(stream, not stream.opened_here, codec.CLOSE_SEND, True, sending=False)
        return events.MessageReceived(stream.id, message, 0 if message is not None else size, end)

    def _on_close_send(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        stream.no_pieces()
        advance(stream, not stream.opened_here, codec.CLOSE_SEND, True, sending=False)
        return events.SendClosed(frame.stream)

    def _on_headers(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        advance(stream, not stream.opened_here, codec.HEADERS, False, sending=False)
        reader = codec.Reader(frame.payload, "HEADERS")
        metadata = reader.metadata()
        reader.end()
        return events.HeadersReceived(frame.stream, metadata)

    def _on_status(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if stream is None:
            return None
        flags = frame.flags
        stream.no_pieces()
        advance(stream, not stream.opened_here, codec.STATUS, False, sending=False)
        headers: events.Received | None = None
        trailing, details = _NO_METADATA, ""
        if flags & (codec.WITH_HEADERS | codec.WITH_METADATA | codec.WITH_DETAILS):
            reader = codec.Reader(frame.payload, "STATUS")
            if flags & codec.WITH_HEADERS:
                headers = reader.metadata()
            if flags & codec.WITH_METADATA:
                trailing = reader.metadata()
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
        return events.ResetReceived(frame.stream, frame.aux, frame.payload[:1024].decode("utf-8", "replace"))

    def _on_window(self, frame: Frame) -> events.Event | None:
        stream = self._stream_of(frame)
        if frame.payload:
            raise ProtocolError("long-payload", f"WINDOW: {len(frame.payload)} bytes left over")
        if stream is None:
            return None
        stream.send.grant(frame.aux)
        return events.CreditReceived(frame.stream)

    def _on_ping(self, frame: Frame) -> events.Event | None:
        if len(frame.payload) != 8 or frame.stream:
            raise ProtocolError("bad-ping", f"PING of {len(frame.payload)} bytes on stream {frame.stream}")
        if frame.flags & codec.ACK:
            return events.PongReceived(frame.payload)
        self.outbox += codec.encode(codec.PING, 0, frame.payload, codec.ACK)
        return None

    def _on_goaway(self, frame: Frame) -> events.Event:
        self.going_away = True
        return events.GoAwayReceived(frame.aux, frame.payload[:1024].decode("utf-8", "replace"))

    def _drop(self, stream: Stream) -> None:
        del self._streams[stream.id]
        if stream.opened_here:
            self._opened -= 1
        else:
            self._accepted -= 1


_HANDLERS: Final[dict[int, Callable[[Connection, Frame], events.Event | None]]] = {
    codec.HELLO: Connection._on_hello,
    codec.OPEN: Connection._on_open,
    codec.MESSAGE: Connection._on_message,
    codec.CLOSE_SEND: Connection._on_close_send,
    codec.HEADERS: Connection._on_headers,
    codec.STATUS: Connection._on_status,
    codec.RESET: Connection._on_reset,
    codec.WINDOW: Connection._on_window,
    codec.PING: Connection._on_ping,
    codec.GOAWAY: Connection._on_goaway,
}
