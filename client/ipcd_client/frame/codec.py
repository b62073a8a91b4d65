"""Frames to bytes and back. The layout is that of proto/FRAME.md, sections 2 and 3."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import grpc

from ipcd_client.errors import IpcdError, ProtocolError

Buffer = bytes | bytearray | memoryview
Payload = bytes | bytearray

# length of the payload, stream, type, descriptors that travel with it, flags, aux
HEADER: Final = struct.Struct("<IIBBHI")
HEADER_SIZE: Final = HEADER.size

HELLO: Final = 1
OPEN: Final = 2
MESSAGE: Final = 3
CLOSE_SEND: Final = 4
HEADERS: Final = 5
STATUS: Final = 6
RESET: Final = 7
WINDOW: Final = 8
PING: Final = 9
GOAWAY: Final = 10
# Of the shm wire: they end in it, section 10.
OFFER: Final = 16
ACCEPT: Final = 17
DECLINE: Final = 18
SWITCH: Final = 19

NAMES: Final = {
    HELLO: "HELLO",
    OPEN: "OPEN",
    MESSAGE: "MESSAGE",
    CLOSE_SEND: "CLOSE_SEND",
    HEADERS: "HEADERS",
    STATUS: "STATUS",
    RESET: "RESET",
    WINDOW: "WINDOW",
    PING: "PING",
    GOAWAY: "GOAWAY",
}
SHM_NAMES: Final = {OFFER: "OFFER", ACCEPT: "ACCEPT", DECLINE: "DECLINE", SWITCH: "SWITCH"}
_ALL_NAMES: Final = NAMES | SHM_NAMES

# Flags. One namespace for all types; which type may carry which is ALLOWED_FLAGS.
END: Final = 0x0001  # OPEN, MESSAGE: the caller sends no further message
MORE: Final = 0x0002  # MESSAGE: a further piece of the same message follows
WITH_NAME: Final = 0x0004  # OPEN: the method's name stands in the payload and gets the id in aux
WITH_TIMEOUT: Final = 0x0008  # OPEN
WITH_METADATA: Final = 0x0010  # OPEN: metadata; STATUS: trailing metadata
WITH_HEADERS: Final = 0x0020  # STATUS: initial metadata
WITH_DETAILS: Final = 0x0040  # STATUS
WITH_MESSAGE: Final = 0x0080  # OPEN, STATUS: the rest of the payload is a message
ACK: Final = 0x0100  # PING
FIRST: Final = 0x0200  # MESSAGE: first piece of several; aux is the length of the whole

ALLOWED_FLAGS: Final = {
    HELLO: 0,
    OPEN: END | WITH_NAME | WITH_TIMEOUT | WITH_METADATA | WITH_MESSAGE,
    MESSAGE: END | MORE | FIRST,
    CLOSE_SEND: 0,
    HEADERS: 0,
    STATUS: WITH_METADATA | WITH_HEADERS | WITH_DETAILS | WITH_MESSAGE,
    RESET: 0,
    WINDOW: 0,
    PING: ACK,
    GOAWAY: 0,
}

# The same for the two streams of the shm wire.
ALLOWED_ON_SHM: Final = ALLOWED_FLAGS | dict.fromkeys(SHM_NAMES, 0)

# Types that may bring descriptors, where the connection takes any.
WITH_FDS: Final = frozenset((MESSAGE, STATUS))

# Below this a copy into one buffer is cheaper than a second entry in the system call's vector.
JOIN_BELOW: Final = 16 * 1024
# A partly received payload of at least this size is received straight into its own buffer.
LARGE: Final = 16 * 1024

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<HI")
# What an entry of metadata counts beyond its key and value, as HTTP/2 (RFC 9113, 6.5.2) and so gRPC count.
ENTRY_COST: Final = 32
_KEY: Final = re.compile(rb"[0-9a-z_.-]+\Z")

Metadata = Sequence[tuple[str, str | bytes]]


class MetadataTooLarge(IpcdError):
    """Metadata over the receiver's limit: the call ends, the connection lives."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Frame(NamedTuple):
    """One frame. `fds` counts the descriptors that travel with it. A large payload is a bytearray of its own."""

    type: int
    stream: int
    flags: int
    aux: int
    fds: int
    payload: Payload


# Half the time that the class itself takes.
_new_frame: Final = tuple.__new__


def encode(type_: int, stream: int, payload: Buffer = b"", flags: int = 0, aux: int = 0, fds: int = 0) -> list[Buffer]:
    """One frame as the buffers to be sent. They refer to `payload`; large ones are not copied."""
    size = len(payload)
    header = HEADER.pack(size, stream, type_, fds, flags, aux)
    if size < JOIN_BELOW:
        return [header + payload]
    return [header, payload]


def encode_metadata(metadata: Metadata) -> bytes:
    """u16 count, then per entry u16 key length, u32 value length, key, value."""
    parts = [_U16.pack(len(metadata))]
    for key, value in metadata:
        raw_key = key.encode("ascii")
        raw = value if isinstance(value, bytes) else value.encode("utf-8")
        parts += (_ENTRY.pack(len(raw_key), len(raw)), raw_key, raw)
    return b"".join(parts)


def with_length(block: bytes) -> bytes:
    """A block behind its u32 length."""
    return _U32.pack(len(block)) + block


def pack_name(name: str) -> bytes:
    """A method's name behind its u16 length. Longer than MAX_NAME is for the caller to refuse."""
    raw = name.encode("utf-8", "replace")
    return _U16.pack(min(len(raw), 0xFFFF)) + raw


def cut(text: str, size: int) -> bytes:
    """At most `size` bytes of UTF-8, cut between characters."""
    raw = text.encode("utf-8", "replace")
    return raw if len(raw) <= size else raw[:size].decode("utf-8", "ignore").encode()


def pack_u64(value: int) -> bytes:
    """Little-endian u64."""
    return _U64.pack(value)


class Reader:
    """Takes the sections of a payload apart, front to back. Anything short is a ProtocolError."""

    __slots__ = ("_at", "_payload", "_what")

    def __init__(self, payload: Payload, what: str) -> None:
        self._payload = payload
        self._at = 0
        self._what = what

    def take(self, size: int) -> Payload:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._payload):
            raise ProtocolError(
                "short-payload", f"{self._what}: {size} bytes claimed, {len(self._payload) - self._at} left"
            )
        piece = self._payload[self._at : end]
        self._at = end
        return piece

    def u16(self) -> int:
        """Little-endian u16."""
        value: int = _U16.unpack(self.take(2))[0]
        return value

    def u32(self) -> int:
        """Little-endian u32."""
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        """Little-endian u64."""
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def text(self, size: int) -> str:
        """`size` bytes of UTF-8."""
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolError("bad-text", f"{self._what}: {error}") from None

    def metadata(self, limit: int) -> tuple[tuple[str, str | bytes], ...]:
        """A metadata block. Values of keys ending in -bin are bytes, others text.

        Raises:
            MetadataTooLarge: over `limit` bytes. Judged from the block's length and count, before an entry is
                kept; the reader then stands behind the block.
        """
        size = self.u32()
        block = Reader(self.take(size), self._what)
        count = block.u16()
        cost = size - _U16.size + count * (ENTRY_COST - _ENTRY.size)
        if cost > limit:
            raise MetadataTooLarge(f"metadata of {cost} bytes in {count} entries, the limit is {limit}")
        entries: list[tuple[str, str | bytes]] = []
        for _ in range(count):
            key_size, value_size = _ENTRY.unpack(block.take(_ENTRY.size))
            raw = block.take(key_size)
            if not _KEY.match(raw):
                raise ProtocolError("bad-metadata", f"{self._what}: key {raw[:64]!r} is not made of a-z 0-9 _ . -")
            key = raw.decode("ascii")
            entries.append((key, bytes(block.take(value_size)) if raw.endswith(b"-bin") else block.text(value_size)))
        block.end()
        return tuple(entries)

    def rest(self) -> Payload:
        """All that is left."""
        piece = self._payload[self._at :]
        self._at = len(self._payload)
        return piece

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._payload):
            raise ProtocolError("long-payload", f"{self._what}: {len(self._payload) - self._at} bytes left over")


class Decoder:
    """Bytes in any split to frames. Holds at most one unfinished frame.

    A payload that has not arrived whole and is large gets a buffer of its own, which `buffer()` lends out,
    so that it is received in place. That buffer, of `allocate`, is the frame's payload: whoever gets it owns it.
    """

    def __init__(
        self,
        max_frame: int,
        allowed: Mapping[int, int] = ALLOWED_FLAGS,
        allocate: Callable[[int], bytearray] = bytearray,
    ) -> None:
        self.max_frame = max_frame
        self._allowed = allowed
        self._allocate = allocate
        self._data: bytes = b""
        self._at = 0
        self._large: bytearray | None = None
        self._large_at = 0
        self._large_header: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    def feed(self, data: bytes) -> None:
        """Takes what has arrived, in order."""
        if self._large is not None:
            # The start of `data` belongs to the large payload.
            size = min(len(data), len(self._large) - self._large_at)
            self._large[self._large_at : self._large_at + size] = data[:size]
            self._large_at += size
            data = data[size:]
        if self._at < len(self._data):
            self._data = self._data[self._at :] + data
        else:
            self._data = data
        self._at = 0

    def buffer(self) -> memoryview | None:
        """Where the next bytes belong, or None: then `feed` them."""
        if self._large is None or self._large_at == len(self._large):
            return None
        return memoryview(self._large)[self._large_at :]

    def filled(self, count: int) -> None:
        """`count` bytes were put into `buffer()`."""
        self._large_at += count

    @property
    def partial(self) -> bool:
        """True in the middle of a frame."""
        return self._at < len(self._data) or self._large is not None

    def next(self) -> Frame | None:
        """The next whole frame, or None.

        Raises:
            ProtocolError: `unknown-type`, `oversized-frame`, `unknown-flags`. Judged from the header alone,
                before anything is kept of the payload.
        """
        if self._large is not None:
            if self._large_at < len(self._large):
                return None
            payload = self._large
            self._large = None
            stream, type_, fds, flags, aux = self._large_header
            return _new_frame(Frame, (type_, stream, flags, aux, fds, payload))
        data, at = self._data, self._at
        have = len(data) - at
        if have < HEADER_SIZE:
            return None
        size, stream, type_, fds, flags, aux = HEADER.unpack_from(data, at)
        allowed = self._allowed.get(type_)
        if allowed is None:
            raise ProtocolError("unknown-type", f"frame type {type_}")
        if size > self.max_frame:
            raise ProtocolError(
                "oversized-frame", f"{_ALL_NAMES[type_]} of {size} bytes, the limit is {self.max_frame}"
            )
        if flags & ~allowed:
            raise ProtocolError("unknown-flags", f"{_ALL_NAMES[type_]} with flags {flags & ~allowed:#06x}")
        start = at + HEADER_SIZE
        end = start + size
        if have < HEADER_SIZE + size:
            if size >= LARGE:
                self._large = self._allocate(size)
                self._large_at = len(data) - start
                self._large[: self._large_at] = data[start:]
                self._large_header = (stream, type_, fds, flags, aux)
                self._data = b""
                self._at = 0
            return None
        self._at = end
        return _new_frame(Frame, (type_, stream, flags, aux, fds, data[start:end]))
