"""Large messages come in memory that is used again: nobody may keep it."""

from __future__ import annotations

import pytest
from ipcd_client.facade.messages import parsed
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.wire import buffers

SIZE = 100_000


def encoded() -> bytearray:
    return bytearray(wire_pb2.DescribeReply(files=[b"x" * SIZE]).SerializeToString())


def test_protobuf_keeps_nothing_of_what_it_parses() -> None:
    """What `parsed` relies on: another implementation could refer to the buffer that it was given."""
    data = encoded()
    message = parsed(data, wire_pb2.DescribeReply.FromString)
    data[:] = bytes(len(data))
    assert message.files == [b"x" * SIZE]


def test_the_memory_is_used_again() -> None:
    buffers.drop()
    data = encoded()
    parsed(data, wire_pb2.DescribeReply.FromString)
    assert buffers.take(len(data)) is data


@pytest.mark.parametrize("deserialize", [None, lambda data: data, bytes], ids=["none", "identity", "bytes"])
def test_anybody_else_gets_bytes_of_its_own(deserialize: object) -> None:
    data = encoded()
    before = bytes(data)
    message = parsed(data, deserialize)  # type: ignore[arg-type]
    data[:] = bytes(len(data))
    assert type(message) is bytes
    assert message == before


def test_small_ones_are_given_as_they_are() -> None:
    assert parsed(b"abc", None) == b"abc"
    assert parsed(b"abc", lambda data: data + b"d") == b"abcd"


@pytest.mark.parametrize("first", [1, 5000, 65_536, 100_000])
@pytest.mark.parametrize("second", [1, 5000, 65_537, 100_000])
def test_a_buffer_has_the_size_that_was_asked_for(first: int, second: int) -> None:
    buffers.drop()
    buffers.give(buffers.take(first))
    assert len(buffers.take(second)) == second


def test_what_is_kept_is_bounded() -> None:
    buffers.drop()
    size = 1 << 20
    given = [bytearray(size) for _ in range(2 * buffers.KEPT // size)]
    for buffer in given:
        buffers.give(buffer)
    taken = [buffers.take(size) for _ in given]
    assert sum(any(one is other for other in given) for one in taken) == buffers.KEPT // size
    buffers.drop()
