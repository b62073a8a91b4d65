"""The sending half of a connection: verbs in, buffers to send out. The receiving half builds on it
(`connection.py`).

The transitions of a stream are the table in `stream.py`; what they do not allow is a `UsageError`, and so is
what no peer would accept: nothing that we send makes a peer end the connection.
"""

from __future__ import annotations

from typing import Final

import grpc

from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec, hello
from ipcd_client.frame.codec import Buffer, Metadata
from ipcd_client.frame.settings import (
    GOAWAY_DRAIN,
    MAX_DETAILS,
    MAX_HELLO,
    MAX_METHOD_ID,
    MAX_NAME,
    MAX_REASON,
    MAX_TIMEOUT,
    MAX_U32,
    Settings,
)
from ipcd_client.frame.stream import Half, Stream, advance
from ipcd_client.frame.window import COST

LAST_STREAM: Final = 0xFFFF_FFF0
EXHAUSTED: Final[int] = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


class StreamsExhausted(UsageError):
    """All stream ids of this connection are used: make a new one."""


class Verbs:
    """The state of one end.

    `outbox` gathers what must be sent in answer to received frames (acknowledgements of pings, refusals); the
    driver sends and clears it after each `receive`.
    """

    def __init__(self, *, dialer: bool, settings: Settings) -> None:
        self.settings = settings
        self.outbox: list[Buffer] = []
        self.version = 0
        self.peer = Settings(max_frame=MAX_HELLO, initial_window=0, max_streams=0)
        self.going_away = False  # no new calls: the peer takes none, or this end makes none
        self.draining = False  # we take no new calls
        self._next_stream = 1 if dialer else 2
        self._last_peer_stream = 0
        self._peer_parity = 0 if dialer else 1
        self._streams: dict[int, Stream] = {}
        self._plain_most = 0  # bytes of a message that goes into one frame with no second look
        # The same of what is received.
        self._plain_in = min(settings.max_message if settings.max_message >= 0 else MAX_U32, settings.max_frame)
        self._most_streams = settings.max_streams if settings.accept_calls else 0
        self._plain: set[int] = set()  # calls of which nothing is known but that they are open; see plain.py
        self._opened = 0  # calls of ours that are open
        self._accepted = 0  # calls of the peer that are open
        self._method_ids: dict[str, int] = {}
        self._peer_methods: dict[int, str] = {}
        self._hello_sent = False
        self._hello_received = False
        self._failed: ProtocolError | None = None

    # -- verbs: what we do ------------------------------------------------------------------------

    def hello(self) -> list[Buffer]:
        """The first frame, to be sent before any other.

        Raises:
            ConfigError: the settings have a limit that no peer would accept.
        """
        if self._hello_sent:
            raise UsageError("hello was already sent")
        self._hello_sent = True
        return codec.encode(codec.HELLO, 0, hello.compose(self.settings))

    @property
    def ready(self) -> bool:
        """Both hellos have passed: calls may be made."""
        return self._hello_received and self._hello_sent

    @property
    def idle(self) -> bool:
        """No call is open in either direction."""
        return not self._streams and not self._plain

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
            UsageError: before both hellos, after the peer's goaway, or with as many calls open as the peer
                allows; what must be in the first frame does not fit in it.
        """
        # Before the peer's hello, its max_streams is 0.
        if not self._hello_sent or self.going_away or self._opened >= self.peer.max_streams:
            raise UsageError(self._why_not_open())
        stream_id = self._next_stream
        if stream_id > LAST_STREAM:
            raise StreamsExhausted("all stream ids are used")
        flags = codec.END if end else 0
        sections: list[bytes] = []
        method_id = self._method_ids.get(method)
        if method_id is None:
            # The last id is used again and again: the name travels each time, and replaces the one before.
            method_id = len(self._method_ids)
            flags |= codec.WITH_NAME
            name = codec.pack_name(method)
            if len(name) > 2 + MAX_NAME:
                raise UsageError(f"a method's name of {len(name) - 2} bytes, the limit is {MAX_NAME}")
            sections.append(name)
        if timeout is not None:
            flags |= codec.WITH_TIMEOUT
            sections.append(codec.pack_u64(int(min(max(0.0, timeout * 1e6), MAX_TIMEOUT))))
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
                    message = b"".join([*sections, message])
                buffers = codec.encode(codec.OPEN, stream_id, message, flags, method_id)
                self._add(stream, method, flags, end)
                return stream_id, buffers
            # Does not fit with the rest: goes behind, as any other message.
            flags &= ~codec.END
            pieces = self._pieces(stream, message, end)
        payload = b"".join(sections)
        self._fits(payload, "name, deadline and metadata")
        buffers = codec.encode(codec.OPEN, stream_id, payload, flags, method_id)
        self._add(stream, method, flags, end)
        return stream_id, buffers + pieces

    def _add(self, stream: Stream, method: str, flags: int, end: bool) -> None:
        # Only now that nothing can fail any more: the peer must see each id and each name that counts as
        # used.
        if flags & codec.WITH_NAME and len(self._method_ids) < MAX_METHOD_ID:
            self._method_ids[method] = len(self._method_ids)
        if end:
            stream.request = Half.CLOSED
        self._streams[stream.id] = stream
        self._next_stream = stream.id + 2
        self._opened += 1

    def _fits(self, payload: Buffer, what: str) -> None:
        if len(payload) > self.peer.max_frame:
            raise UsageError(f"{what} of {len(payload)} bytes do not fit in a frame of {self.peer.max_frame} bytes")

    def _why_not_open(self) -> str:
        if self.going_away:
            return "no new calls are made on this connection"
        if not self._hello_received or not self._hello_sent:
            return "hello has not passed both ways yet"
        if not self.peer.max_streams:
            return "the peer takes no calls on this connection"
        return f"{self._opened} calls are open, the peer allows {self.peer.max_streams} (max_streams)"

    def _stream(self, stream_id: int) -> Stream | None:
        """The state of an open call."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id in self._plain:
            self._plain.remove(stream_id)
            ours = stream_id & 1 != self._peer_parity
            stream = Stream(stream_id, ours, self.peer.initial_window, self.settings.initial_window)
            stream.request = Half.CLOSED
            self._streams[stream_id] = stream
        return stream

    def is_open(self, stream_id: int) -> bool:
        """The call has not ended for both ends."""
        return stream_id in self._streams or stream_id in self._plain

    def credit(self, stream_id: int) -> int:
        """Bytes of credit for sending; a message may be sent while it is above 0. A large number once it
        ended."""
        stream = self._stream(stream_id)
        return stream.send.credit if stream is not None else 1 << 30

    def message(self, stream_id: int, message: Buffer, *, end: bool = False, fds: int = 0) -> list[Buffer]:
        """Sends a message. Nothing, if the call has already ended: its last event tells why.

        Raises:
            UsageError: the call's state does not allow it, there is no credit, or it comes with descriptors
                and does not fit in one frame.
        """
        stream = self._stream(stream_id)
        if stream is None:
            return []
        if fds:
            self._fits(message, "a message with descriptors")
        advance(stream, stream.opened_here, codec.MESSAGE, end, sending=True)
        return self._pieces(stream, message, end, fds)

    def _pieces(self, stream: Stream, message: Buffer, end: bool, fds: int = 0) -> list[Buffer]:
        size = len(message)
        stream.send.spend(size)
        limit = self.peer.max_frame
        last = codec.END if end else 0
        if size <= limit:
            return codec.encode(codec.MESSAGE, stream.id, message, last, 0, fds)
        if size > MAX_U32:
            raise UsageError(f"a message of {size} bytes, the limit is {MAX_U32}")
        view = memoryview(message)
        buffers: list[Buffer] = []
        for at in range(0, size, limit):
            flags = (codec.FIRST if at == 0 else 0) | (codec.MORE if at + limit < size else last)
            buffers += codec.encode(codec.MESSAGE, stream.id, view[at : at + limit], flags, size if at == 0 else 0)
        return buffers

    def close_send(self, stream_id: int) -> list[Buffer]:
        """The caller has no further message."""
        stream = self._stream(stream_id)
        if stream is None or stream.request is Half.CLOSED:
            return []
        advance(stream, stream.opened_here, codec.CLOSE_SEND, True, sending=True)
        return codec.encode(codec.CLOSE_SEND, stream_id)

    def headers(self, stream_id: int, metadata: Metadata) -> list[Buffer]:
        """Sends initial metadata, before any message and at most once.

        Raises:
            UsageError: the call's state does not allow it, or it does not fit in a frame.
        """
        stream = self._stream(stream_id)
        if stream is None:
            return []
        block = codec.with_length(codec.encode_metadata(metadata))
        self._fits(block, "initial metadata")
        advance(stream, stream.opened_here, codec.HEADERS, False, sending=True)
        return codec.encode(codec.HEADERS, stream_id, block)

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
        """Ends a call that the peer made. `headers`: initial metadata, if it was not sent before. `message`:
        the answer of a unary call. Nothing to send, if the call has already ended.

        A call always can be ended: details over the limit are cut, and metadata that fits in no frame makes
        it end RESOURCEEXHAUSTED.
        """
        stream = self._stream(stream_id)
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
            sections.append(codec.with_length(codec.cut(details, min(MAX_DETAILS, self.peer.max_frame // 2))))
        room = self.peer.max_frame
        if sections:
            room -= sum(map(len, sections))
        if room < 0:
            code, flags, message = EXHAUSTED, codec.WITH_DETAILS, None
            text = f"metadata and details of {self.peer.max_frame - room} bytes do not fit in a frame"
            sections = [codec.with_length(text.encode())]
        if message is not None:
            if len(message) <= room:
                flags |= codec.WITH_MESSAGE
                if sections:
                    message = b"".join([*sections, message])
            else:
                if flags & codec.WITH_HEADERS:
                    buffers = codec.encode(codec.HEADERS, stream_id, sections.pop(0))
                    flags &= ~codec.WITH_HEADERS
                buffers += self.message(stream_id, message)
                message = None
        advance(stream, stream.opened_here, codec.STATUS, False, sending=True)
        self._drop(stream)
        payload = b"".join(sections) if message is None else message
        return buffers + codec.encode(codec.STATUS, stream_id, payload, flags, code, fds)

    def reset(self, stream_id: int, code: int, reason: str = "") -> list[Buffer]:
        """Gives a call up, in either direction. Nothing to send, if it has already ended."""
        stream = self._stream(stream_id)
        if stream is None:
            return []
        self._drop(stream)
        return codec.encode(codec.RESET, stream_id, codec.cut(reason, MAX_REASON), aux=code)

    def consumed(self, stream_id: int, size: int) -> list[Buffer]:
        """The application took a message of `size` bytes from MESSAGE frames: perhaps grants credit."""
        return self.give_back(stream_id, size + COST)

    def give_back(self, stream_id: int, cost: int) -> list[Buffer]:
        """The application took messages from MESSAGE frames that had cost so much, each its size and COST: perhaps
        grants credit."""
        stream = self._stream(stream_id)
        if stream is None:
            return []
        credit = stream.receive.give_back(cost)
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
        # The stream says how far we have come: what the peer opened behind it was never begun.
        text = codec.cut(reason, MAX_REASON)
        return codec.encode(codec.GOAWAY, self._last_peer_stream, text, aux=GOAWAY_DRAIN)

    def goaway(self, code: int, reason: str) -> list[Buffer]:
        """Tells the peer why the connection ends."""
        return codec.encode(codec.GOAWAY, 0, codec.cut(reason, MAX_REASON), aux=code)

    def _drop(self, stream: Stream) -> None:
        del self._streams[stream.id]
        if stream.opened_here:
            self._opened -= 1
        else:
            self._accepted -= 1
