"""What waits at a reader of a pipe: bytes of several writers, in pieces of any size."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.primitives.pipe_inbox import Inbox, Source

COUNT = 64 << 10


def inbox() -> Inbox:
    return Inbox(lambda: None)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 300, 4095, 4096, 70000])),
            st.sampled_from([1, 2, 500, 5000, 1 << 20]),
        ),
        max_size=60,
    )
)
def test_all_bytes_come_in_their_order_and_are_reported_to_those_who_sent_them(
    steps: list[tuple[int, int] | int],
) -> None:
    box, sources = inbox(), [Source() for _ in range(3)]
    owners = bytearray()  # of all that has not been taken: whose each byte is
    contents = bytearray()
    taken = [0, 0, 0]
    views = []
    number = 0
    for step in steps:
        if isinstance(step, tuple):
            who, size = step
            number += 1
            data = bytes([number % 251]) * size
            box.put(sources[who], data)
            owners += bytes([who]) * size
            contents += data
        else:
            parts, _ = box.take(step)
            got = b"".join(parts)
            # Whoever has these may keep them, whatever comes.
            views += [(part, bytes(part)) for part in parts]
            assert got == contents[:step]
            for who in range(3):
                taken[who] += owners[: len(got)].count(who)
            del owners[: len(got)], contents[: len(got)]
        assert box.size == len(contents)
        assert [source.taken for source in sources] == taken
    assert all(part == data for part, data in views)


@pytest.mark.parametrize(("writers", "most"), [(1, 3), (2, 24)])
def test_small_pieces_cost_about_their_bytes(writers: int, most: int) -> None:
    """Also where two take turns."""
    box, sources = inbox(), [Source() for _ in range(writers)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(COUNT):
            box.put(sources[number % writers], b"xy"[number % 2 :][:1])
        assert tracemalloc.get_traced_memory()[0] - before < most * COUNT
    finally:
        tracemalloc.stop()
    # One by one, too.
    assert b"".join(part for _ in range(10) for part in box.take(1)[0]) == b"xyxyxyxyxy"
    assert len(b"".join(box.take(COUNT)[0])) == COUNT - 10 == box.size + COUNT - 10
    assert sum(source.taken for source in sources) == COUNT
