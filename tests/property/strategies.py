"""What hypothesis draws for tests of the protocol's cores."""

from __future__ import annotations

from hypothesis import strategies as st
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Frame

U32 = (1 << 32) - 1

# Streams of both kinds, some of them open in the tests, and those that nobody has.
streams = st.one_of(st.integers(0, 8), st.sampled_from([U32 - 1, U32]))
u32 = st.one_of(st.integers(0, 20), st.sampled_from([4095, 4096, 1 << 20, 1 << 30, 1 << 31, U32]))

keys = st.from_regex(r"[0-9a-z_.\-]{1,12}", fullmatch=True)
entries = st.one_of(
    st.tuples(keys.filter(lambda key: not key.endswith("-bin")), st.text(max_size=20)),
    st.tuples(keys.map(lambda key: key + "-bin"), st.binary(max_size=20)),
)
metadata = st.lists(entries, max_size=5).map(tuple)

messages = st.one_of(st.binary(max_size=40), st.integers(0, 15_000).map(bytes))


@st.composite
def sections(draw: st.DrawFn, flags: int) -> bytes:
    """A payload that is about what the flags say."""
    parts = []
    if flags & codec.WITH_NAME:
        parts.append(codec.pack_name(draw(st.sampled_from(["/s/m", "/s/n", "", "/\u00fc"]))))
    if flags & codec.WITH_TIMEOUT:
        parts.append(codec.pack_u64(draw(st.integers(0, (1 << 64) - 1))))
    blocks = [flag for flag in (codec.WITH_HEADERS, codec.WITH_METADATA) if flags & flag]
    parts += [codec.with_length(codec.encode_metadata(draw(metadata))) for _ in blocks]
    if flags & codec.WITH_DETAILS:
        parts.append(codec.with_length(draw(st.text(max_size=10)).encode()))
    if flags & codec.WITH_MESSAGE:
        parts.append(draw(messages))
    return b"".join(parts)


@st.composite
def frames(draw: st.DrawFn, types: st.SearchStrategy[int] | None = None) -> Frame:
    """A frame as the decoder lets it through: type and flags are known, all else is the peer's."""
    type_ = draw(types if types is not None else st.sampled_from(sorted(codec.NAMES)))
    allowed = [1 << bit for bit in range(16) if codec.ALLOWED_FLAGS[type_] >> bit & 1]
    flags = sum(draw(st.sets(st.sampled_from(allowed)))) if allowed else 0
    well_formed: dict[int, st.SearchStrategy[bytes]] = {
        codec.OPEN: sections(flags),
        codec.STATUS: sections(flags),
        codec.HEADERS: metadata.map(lambda entries: codec.with_length(codec.encode_metadata(entries))),
        codec.PING: st.binary(min_size=8, max_size=8),
        codec.MESSAGE: messages,
    }
    payload = draw(st.one_of(well_formed.get(type_, st.just(b"")), st.binary(max_size=60)))
    return Frame(type_, draw(streams), flags, draw(u32), draw(st.sampled_from([0, 0, 0, 1, 255])), payload)


def raw(frame: Frame) -> bytes:
    """The bytes of a frame."""
    return b"".join(codec.encode(frame.type, frame.stream, frame.payload, frame.flags, frame.aux, frame.fds))
