"""One direction: a ring against the simplest model there is, and counters that say what cannot be."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.errors import WireClosed, hostile
from ipcd_client.frame.codec import HEADER_SIZE, Decoder, Frame
from ipcd_client.testing.shm_hand import CAPACITY, Ends, Hand, receiving, sending
from ipcd_client.testing.wire_tools import MAX_FRAME, Worker, message, raw, soon, violation
from ipcd_client.wire import segment
from ipcd_client.wire.segment import Incoming, Outgoing
from ipcd_client.wire.shm import ShmWire

MOST: Final = 2**64 - 2  # that an eventfd holds


class Sink(Decoder):
    """Keeps what is read. `room`: how much it takes into a place of its own; 0: it is fed."""

    def __init__(self) -> None:
        super().__init__(MAX_FRAME)
        self.data = bytearray()
        self.room = 0
        self._place = bytearray()

    def feed(self, data: bytes) -> None:
        self.data += data

    def buffer(self) -> memoryview | None:
        self._place = bytearray(self.room)
        return memoryview(self._place) if self.room else None

    def filled(self, count: int) -> None:
        self.data += self._place[:count]


class Ring:
    """Both ends, and what is between them."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.outgoing, self.nonce, parts = segment.create(capacity)
        self.incoming = segment.take(parts, capacity)
        self.sink = Sink()
        self.written = bytearray()
        self._bytes = itertools.cycle(range(251))

    def fresh(self, size: int) -> bytes:
        return bytes(itertools.islice(self._bytes, size))

    def put(self, size: int) -> None:
        data = self.fresh(size)
        if not self.outgoing.put(data):
            self.write_data(data)

    def write_data(self, data: bytes) -> None:
        """As much as there is room for; the rest was never written."""
        done = self.outgoing.write(memoryview(data))
        self.outgoing.publish()
        self.written += data[:done]
        between = len(self.written) - len(self.sink.data)
        assert between <= self.outgoing.capacity
        # What the reader has taken and not given back is less than a quarter.
        assert done == len(data) or between > self.outgoing.capacity * 3 // 4

    def read(self, room: int = 0) -> bool:
        self.sink.room = room
        return self.incoming.read(self.sink)

    def through(self, data: bytes, room: int) -> None:
        """Writes all of it, and reads it."""
        left = memoryview(data)
        self.written += data
        while left:
            left = left[self.outgoing.write(left) :]
            self.outgoing.publish()
            while self.read(room):
                pass

    def check(self) -> None:
        while self.read():
            pass
        assert self.sink.data == self.written


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.one_of(st.integers(1, 200), st.integers(1, 2 * CAPACITY))),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("read into a place"), st.integers(1, 5000)),
    ),
    max_size=60,
)


@given(steps=steps, capacity=st.sampled_from([CAPACITY, 2 * CAPACITY]))
def test_against_a_model(steps: list[tuple[str, int]], capacity: int) -> None:
    """What comes out is what went in, whatever the sizes and whoever is ahead."""
    ring = Ring(capacity)
    for what, size in steps:
        if what == "put":
            data = ring.fresh(size)
            if ring.outgoing.put(data):
                ring.written += data
            else:
                ring.write_data(data)
        else:
            assert ring.read(size) or ring.sink.data == ring.written
    ring.check()


@pytest.mark.parametrize("size", [1, 15, HEADER_SIZE, 1000, CAPACITY - 1, CAPACITY])
def test_wrapping_around_at_every_offset(size: int) -> None:
    ring = Ring()
    for at in range(CAPACITY):
        # To this offset, and then across the end, or up to it.
        for part in (size, (1 - size) % CAPACITY):
            ring.through(ring.fresh(part), at % 3 * 700)
        assert ring.sink.data == ring.written
        assert len(ring.written) % CAPACITY == (at + 1) % CAPACITY
        ring.sink.data.clear()
        ring.written.clear()
        ring.written += bytes((at + 1) % CAPACITY)
        ring.sink.data += bytes((at + 1) % CAPACITY)


def test_a_full_ring_takes_nothing_and_a_read_one_all() -> None:
    ring = Ring()
    for _ in range(50):
        ring.write_data(ring.fresh(CAPACITY))
        assert ring.outgoing.write(memoryview(b"x")) == 0
        assert not ring.outgoing.put(b"x")
        ring.check()


def test_what_was_not_looked_at_is_known() -> None:
    ring = Ring()
    ring.write_data(ring.fresh(1000))
    assert ring.read()
    ring.write_data(ring.fresh(300))
    ring.outgoing.put(b"x" * 30)
    ring.outgoing.write(memoryview(b"y" * 7))
    assert ring.outgoing.untaken() == 337
    assert not ring.read()


# -- counters -------------------------------------------------------------------------------------


def closed_by(wire: ShmWire, act: Callable[[], object]) -> str:
    """Why sending ends the connection."""
    with pytest.raises(WireClosed) as caught:
        act()
    with pytest.raises(WireClosed) as again:
        wire.recv_by(soon())
    assert str(again.value) == str(caught.value)
    # Whoever logs it can tell it from an end.
    assert again.value.violation == caught.value.violation == "bad-count"
    assert hostile(again.value)
    assert not hostile(WireClosed("it has ended"))
    return str(caught.value)


def fill(wire: ShmWire) -> None:
    while not wire.backlog:
        wire.send(message(bytes(500)))


@pytest.mark.parametrize("claimed", [CAPACITY + 1, CAPACITY + 100, 1 << 32, 1 << 63, MOST])
def test_more_published_than_there_can_be(ends: Ends, claimed: int) -> None:
    wire, hand = ends
    ours = receiving(hand)
    ours.publish(claimed)
    assert violation(wire) == "bad-count"
    ours.close()


def test_more_published_than_was_given_back(ends: Ends) -> None:
    wire, hand = ends
    ours = receiving(hand)
    data = raw(bytes(100))
    ours.write(data)
    ours.publish(len(data))
    assert wire.recv_by(soon()).payload == bytes(100)
    ours.publish(CAPACITY)
    assert violation(wire) == "bad-count"
    ours.close()


def test_less_published_than_was_written(ends: Ends) -> None:
    """The rest is not looked at before it is told of."""
    wire, hand = ends
    ours = receiving(hand)
    data = raw(b"payload")
    ours.write(data + b"\xff" * 100)
    for count in (3, HEADER_SIZE - 3, 6):
        ours.publish(count)
        assert wire.poll(None)
        assert wire.recv() is None
    ours.publish(1)
    assert wire.recv_by(soon()).payload == b"payload"
    assert not wire.poll(0)
    ours.close()


def test_the_counter_of_what_is_given_back_is_full(ends: Ends) -> None:
    """By the producer's doing: the consumer cannot give back any more."""
    wire, hand = ends
    ours = receiving(hand)
    os.eventfd_write(ours.freed.fileno(), MOST)
    data = raw(bytes(CAPACITY // 2))
    ours.write(data)
    ours.publish(len(data))
    assert violation(wire) == "bad-count"
    ours.close()


@pytest.mark.parametrize("claimed", [CAPACITY + 1, 1 << 32, MOST])
def test_more_given_back_than_was_out(ends: Ends, claimed: int) -> None:
    wire, hand = ends
    theirs = sending(hand)
    fill(wire)
    os.eventfd_write(theirs._freed, claimed)
    assert closed_by(wire, wire.flush).startswith("the hand broke the protocol: bad-count: ")


@pytest.mark.parametrize("payload", [b"small", bytes(3 * CAPACITY)], ids=["small", "large"])
def test_the_counter_of_what_was_published_is_full(ends: Ends, payload: bytes) -> None:
    """By the consumer's doing: the producer cannot publish any more."""
    wire, hand = ends
    theirs = sending(hand)
    os.eventfd_write(theirs.filled, MOST)
    assert closed_by(wire, lambda: wire.send(message(payload))).startswith("the hand broke the protocol: bad-count: ")


def stuck(ends: Ends) -> tuple[ShmWire, Hand, Incoming]:
    """The wire has filled its segment, of which nothing was read."""
    wire, hand = ends
    theirs = sending(hand)
    fill(wire)
    return wire, hand, theirs


def test_less_given_back_than_was_read(ends: Ends) -> None:
    """What is missing is only waited for."""
    wire, _, theirs = stuck(ends)
    sink = Sink()
    while theirs.read(sink):
        pass
    os.eventfd_read(theirs._freed)
    assert not wire.poll_write(0)
    assert not wire.flush()
    assert wire.backlog > 20
    os.eventfd_write(theirs._freed, 20)
    assert wire.poll_write(None)
    assert not wire.flush()
    assert os.eventfd_read(theirs.filled) == 20
    assert not wire.poll_write(0)


def test_a_wait_for_room_ends_with_the_peer(ends: Ends) -> None:
    wire, hand, _ = stuck(ends)
    with Worker(lambda: wire.poll_write(None)) as writing, Worker(lambda: wire.poll(None, write=True)) as both:
        hand.close()
    assert writing.join() is both.join() is True
    with pytest.raises(WireClosed):
        wire.flush()


def test_frames_come_out_of_any_pieces() -> None:
    """With the decoder that wires have."""
    outgoing: Outgoing
    outgoing, _, parts = segment.create(CAPACITY)
    incoming, decoder = segment.take(parts, CAPACITY), Decoder(MAX_FRAME)
    sizes = [
        0,
        1,
        CAPACITY - HEADER_SIZE - 1,
        CAPACITY - HEADER_SIZE,
        CAPACITY - HEADER_SIZE + 1,
        10 * CAPACITY,
        70_000,
    ]
    expected = [bytes([number]) * size for number, size in enumerate(sizes * 3)]
    received: list[Frame] = []
    data = memoryview(b"".join(map(raw, expected)))
    while len(received) < len(expected):
        data = data[outgoing.write(data) :]
        outgoing.publish()
        incoming.read(decoder)
        while (frame := decoder.next()) is not None:
            received.append(frame)
    assert [frame.payload for frame in received] == expected
