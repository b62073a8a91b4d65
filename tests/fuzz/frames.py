"""What a peer's bytes meet first: the codec, and the payloads that have a layout of their own."""

from __future__ import annotations

from fuzz.registry import target
from fuzz.script import Script
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, hello, preamble
from ipcd_client.frame.codec import (
    ALLOWED_FLAGS,
    ALLOWED_ON_SHM,
    HEADER,
    HEADER_SIZE,
    Decoder,
    MetadataTooLarge,
    Reader,
)
from ipcd_client.pb.ipcd.v1 import wire_pb2
from property import strategies as own
from support import document

NAMES = document.violations()


def listed(error: ProtocolError) -> str:
    """The violation's name, which has to be in FRAME.md."""
    assert error.violation in NAMES, error
    return error.violation


_LIMITS = (0, 20, 4096, 65536, 1 << 32)
_TABLES = (ALLOWED_FLAGS, ALLOWED_ON_SHM)

frames = st.lists(st.one_of(own.frames().map(own.raw), st.binary(max_size=30)), max_size=8).map(b"".join)
FRAME_WORDS = tuple(
    HEADER.pack(size, stream, type_, 0, flags, aux)
    for type_ in sorted(codec.NAMES | codec.SHM_NAMES)
    for size, stream, flags, aux in ((0, 1, 0, 0), (8, 0, 0, 1), (4, 2, codec.WITH_MESSAGE | codec.END, 0))
    if not flags & ~ALLOWED_ON_SHM[type_]
)


def _violation(decoder: Decoder) -> str:
    try:
        decoder.next()
    except ProtocolError as error:
        return error.violation
    return ""


def _decoded(raw: bytes, decoder: Decoder, pieces: int, way: int) -> tuple[list[tuple[object, ...]], str]:
    """The frames, and the violation that they end with. `way`: 0 feeds, 1 uses the buffer that is lent, 2 both."""
    found: list[tuple[object, ...]] = []
    violation = ""
    at = 0
    step = max(1, len(raw) // max(1, pieces))
    while at < len(raw):
        piece = raw[at : at + step]
        at += step
        place = decoder.buffer()
        if place is not None and way:
            assert place
            count = min(len(place), len(piece))
            place[:count] = piece[:count]
            decoder.filled(count)
            piece = piece[count:]
        if piece or way != 1:
            decoder.feed(piece)
        try:
            while (frame := decoder.next()) is not None:
                assert len(frame.payload) <= decoder.max_frame
                found.append((*frame[:5], bytes(frame.payload)))
        except ProtocolError as error:
            violation = listed(error)
            break
        # What it holds is one unfinished frame, never a whole one.
        held = decoder._large if decoder._large is not None else decoder._data[decoder._at :]
        assert len(held) <= HEADER_SIZE + decoder.max_frame
        assert decoder.partial == bool(len(held) or decoder._large is not None)
    else:
        return found, ""
    assert _violation(decoder) == violation, "it went on behind a violation"
    return found, violation


@target(
    "decoder",
    st.builds(
        lambda head, pad, raw: bytes((head, pad)) + raw, st.integers(0, 255), st.sampled_from([0, 0, 64, 255]), frames
    ),
    words=FRAME_WORDS,
)
def _decoder(data: bytes) -> object:
    script = Script(data)
    choice = script.number()
    padding = bytes(script.number() * 256)  # so that few bytes are enough for a large frame
    allowed, limit = _TABLES[choice & 1], _LIMITS[(choice >> 1) % len(_LIMITS)]
    raw = script.rest() + padding
    asked: list[int] = []

    def allocate(size: int) -> bytearray:
        asked.append(size)
        assert size <= limit
        # A peer may announce 4 GiB where a frame may have that; here nothing has to.
        return bytearray(min(size, 1 << 20))

    if limit > 65536:
        # Only what is judged from the header: nothing here allocates as much as may be announced.
        decoder = Decoder(limit, allowed, allocate)
        decoder.feed(raw[:HEADER_SIZE])
        try:
            return decoder.next(), asked
        except ProtocolError as error:
            return listed(error)
    whole = _decoded(raw, Decoder(limit, allowed, allocate), 1, 0)
    pieces = 2 + (choice >> 4)
    for way in range(3):
        assert _decoded(raw, Decoder(limit, allowed, allocate), pieces, way) == whole
    if len(raw) < 128:
        assert _decoded(raw, Decoder(limit, allowed, allocate), len(raw), choice % 3) == whole
    return len(whole[0]), whole[1]


@target(
    "payload",
    st.builds(
        lambda head, block: head + block,
        st.binary(min_size=2, max_size=2),
        st.one_of(st.binary(max_size=80), own.metadata.map(lambda one: codec.with_length(codec.encode_metadata(one)))),
    ),
    raises=(ProtocolError,),
    words=(b"\x01\x00", b"-bin", b"\xff\xff\xff\xff", codec.with_length(codec.encode_metadata([("a-bin", b"b")]))),
)
def _payload(data: bytes) -> object:
    script = Script(data)
    kind, limit = script.number() % 6, script.number() * 8
    raw = script.rest()
    reader = Reader(raw, "test")
    if kind == 0:
        parts = reader.u16(), reader.u32(), reader.u64(), reader.text(reader.u16())
        reader.end()
        return parts
    if kind == 1:
        return reader.text(reader.u32()), len(reader.rest())
    entries: list[object] = []
    for _ in range(kind - 1):
        try:
            one = reader.metadata(limit)
        except MetadataTooLarge:
            entries.append("too large")
            continue
        assert sum(len(key) + len(value) + codec.ENTRY_COST for key, value in one if isinstance(value, bytes)) <= limit
        assert raw[: len(codec.encode_metadata(one)) + 4] == codec.with_length(codec.encode_metadata(one)) or entries
        entries.append(one)
    return entries


@target(
    "hello",
    st.builds(
        lambda numbers, software: wire_pb2.Hello(
            min_version=numbers[0],
            max_version=numbers[1],
            max_frame=numbers[2],
            initial_window=numbers[3],
            max_streams=numbers[4],
            software=software,
        ).SerializeToString(),
        st.tuples(st.integers(0, 2), st.integers(0, 3), own.u32, own.u32, own.u32),
        st.text(max_size=300),
    ),
    raises=(ProtocolError,),
    largest=5000,
)
def _hello(data: bytes) -> object:
    version, limits = hello.agree(data)
    assert version == 1
    assert limits.max_frame >= 4096
    assert 0 < limits.initial_window <= 1 << 30
    assert len(limits.software) <= 200
    return version, limits


@target(
    "preamble",
    st.builds(
        lambda head, token: head + token,
        st.sampled_from([b"IPCD\x01\x02\0\0", b"IPCD\x01\x03\0\0", b"IPCD"]),
        st.binary(min_size=16, max_size=20),
    ),
    raises=(ProtocolError,),
    words=(b"IPCD", b"\x01\x02\x00\x00", b"\x01\x03\x00\x00"),
    largest=64,
)
def _preamble(data: bytes) -> object:
    kind, token = preamble.unpack(data)
    assert preamble.pack(kind, token) == data
    return kind
