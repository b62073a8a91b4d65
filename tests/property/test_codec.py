"""Bytes to frames and back, whatever the bytes and wherever they are split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, preamble
from ipcd_client.frame.codec import HEADER, HEADER_SIZE, LARGE, Decoder, Frame, MetadataTooLarge, Reader
from property import strategies as own
from support import document

NAMES = document.violations()
MAX_FRAME = 3 * LARGE

large_frames = st.builds(
    Frame,
    st.just(codec.MESSAGE),
    own.streams,
    st.sampled_from([0, codec.END, codec.MORE]),
    own.u32,
    st.just(0),
    st.sampled_from([LARGE - 1, LARGE, LARGE + 1, MAX_FRAME]).map(lambda size: bytes(range(256)) * (size // 256 + 1)),
).map(lambda frame: frame._replace(payload=frame.payload[: min(len(frame.payload), MAX_FRAME)]))


class Source:
    """Puts bytes into a decoder in pieces, as a wire does: into its buffer where it lends one, and at will by `feed`,
    also when it does."""

    def __init__(self, raw: bytes, max_frame: int = MAX_FRAME) -> None:
        self.raw = raw
        self.decoder = Decoder(max_frame)

    def put(self, size: int, *, lent: bool) -> None:
        piece, self.raw = self.raw[:size], self.raw[size:]
        place = self.decoder.buffer()
        if place is not None and lent:
            count = min(len(place), len(piece))
            place[:count] = piece[:count]
            self.decoder.filled(count)
            piece = piece[count:]
        if piece or not lent:
            self.decoder.feed(piece)

    def frames(self) -> Iterator[Frame]:
        while (frame := self.decoder.next()) is not None:
            yield frame


def decoded(raw: bytes, cuts: list[tuple[int, bool]], max_frame: int = MAX_FRAME) -> tuple[list[Frame], str]:
    """The frames, and the violation that they end with, if any."""
    source = Source(raw, max_frame)
    found: list[Frame] = []
    cut = 0
    violation = ""
    while source.raw:
        size, lent = cuts[cut % len(cuts)] if cuts else (len(source.raw), True)
        source.put(max(1, size), lent=lent)
        try:
            found += source.frames()
        except ProtocolError as error:
            violation = error.violation
            break
        cut += 1
    else:
        return found, ""
    with pytest.raises(ProtocolError, match=violation):
        source.decoder.next()  # for good
    return found, violation


cuts = st.lists(st.tuples(st.one_of(st.integers(1, 40), st.integers(1, 2 * LARGE)), st.booleans()), max_size=12)


@given(st.lists(own.frames(), max_size=8), cuts)
@example([Frame(codec.PING, 0, 0, 0, 0, b"12345678")] * 3, [(1, True)])
@example([Frame(codec.PING, 0, 0, 0, 0, b"")] * 3, [(HEADER_SIZE, False)])
def test_any_split_gives_the_same_frames(sent: list[Frame], split: list[tuple[int, bool]]) -> None:
    assert decoded(b"".join(map(own.raw, sent)), split) == (sent, "")


@given(st.lists(st.one_of(large_frames, own.frames()), min_size=1, max_size=3), cuts)
def test_any_split_of_large_frames(sent: list[Frame], split: list[tuple[int, bool]]) -> None:
    total = sum(len(frame.payload) for frame in sent)
    coarse = [(max(size, total // 50), lent) for size, lent in split]
    assert decoded(b"".join(map(own.raw, sent)), coarse) == (sent, "")


@given(st.binary(max_size=200), cuts)
def test_any_bytes_end_the_same_way_however_they_are_split(raw: bytes, split: list[tuple[int, bool]]) -> None:
    whole = decoded(raw, [])
    assert decoded(raw, split) == whole
    assert whole[1] in {"", *NAMES}


@given(own.u32, st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 100), st.binary(max_size=30))
def test_headers_are_judged_before_anything_is_kept(
    size: int, type_: int, flags: int, limit: int, behind: bytes
) -> None:
    decoder = Decoder(limit)
    decoder.feed(HEADER.pack(size, 1, type_, 0, flags, 0) + behind)
    wrong = (
        "unknown-type"
        if type_ not in codec.NAMES
        else "oversized-frame"
        if size > limit
        else "unknown-flags"
        if flags & ~codec.ALLOWED_FLAGS[type_]
        else ""
    )
    if wrong:
        with pytest.raises(ProtocolError) as caught:
            decoder.next()
        assert caught.value.violation == wrong
        assert decoder.buffer() is None
    else:
        assert (decoder.next() is not None) == (len(behind) >= size)


@given(own.frames(), st.data())
def test_it_knows_when_it_is_in_the_middle_of_a_frame(frame: Frame, data: st.DataObject) -> None:
    raw = own.raw(frame)
    cut = data.draw(st.integers(0, len(raw)))
    decoder = Decoder(MAX_FRAME)
    decoder.feed(raw[:cut])
    assert (decoder.next() is not None) == (cut == len(raw))
    assert decoder.partial == (0 < cut < len(raw))


@given(own.metadata)
def test_metadata_comes_back(entries: tuple[tuple[str, str | bytes], ...]) -> None:
    block = codec.with_length(codec.encode_metadata(entries))
    cost = sum(len(key) + len(value if isinstance(value, bytes) else value.encode()) + 32 for key, value in entries)
    reader = Reader(block, "test")
    assert reader.metadata(cost) == entries
    reader.end()
    if entries:
        reader = Reader(block, "test")
        with pytest.raises(MetadataTooLarge):
            reader.metadata(cost - 1)
        reader.end()  # what comes behind can still be read


@given(st.one_of(st.binary(max_size=80), own.metadata.map(codec.encode_metadata)), st.integers(0, 300))
def test_any_block_is_metadata_or_a_violation(block: bytes, limit: int) -> None:
    reader = Reader(codec.with_length(block), "test")
    violation = ""
    entries: tuple[tuple[str, str | bytes], ...] | None = None
    try:
        entries = reader.metadata(limit)
    except ProtocolError as error:
        violation = error.violation
    except MetadataTooLarge:
        pass
    assert violation in {"", *NAMES}
    if entries is not None:
        assert codec.encode_metadata(entries) == block
        assert sum(len(key) + 32 for key, _ in entries) <= limit


@given(own.u32, st.binary(max_size=30))
def test_claimed_lengths_are_checked_before_they_are_used(size: int, rest: bytes) -> None:
    reader = Reader(size.to_bytes(4, "little") + rest, "test")
    if size > len(rest):
        with pytest.raises(ProtocolError) as caught:
            reader.metadata(1 << 40)
        assert caught.value.violation == "short-payload"


@given(st.text(), st.integers(0, 50))
def test_text_is_cut_between_characters(text: str, size: int) -> None:
    short = codec.cut(text, size)
    assert len(short) <= size
    assert text.encode().startswith(short)
    short.decode()
    assert len(short) > size - 4 or short == text.encode()


@given(st.sampled_from([preamble.PEER, preamble.DATA]), st.binary(min_size=16, max_size=16))
def test_preambles_come_back(kind: int, token: bytes) -> None:
    assert preamble.unpack(preamble.pack(kind, token)) == (kind, token)


@given(st.one_of(st.binary(max_size=40), st.binary(min_size=20, max_size=20).map(lambda end: b"IPCD" + end)))
def test_any_bytes_are_a_preamble_or_bad(raw: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        kind, token = preamble.unpack(raw)
        assert preamble.pack(kind, token) == raw
        return
    with pytest.raises(ProtocolError, match="bad-preamble"):
        preamble.unpack(raw)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_tokens_have_one_size(size: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        preamble.pack(preamble.DATA, bytes(size))
