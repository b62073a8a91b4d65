"""Growing, shrinking, waiting for room: what is under way is neither lost nor put in another order."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipcd_client.errors import WireClosed, WireTimeout
from ipcd_client.frame import codec
from ipcd_client.frame.codec import HEADER_SIZE
from ipcd_client.testing.shm_hand import CAPACITY, Ends, RawSegment, begun, sending
from ipcd_client.testing.wire_factories import FACTORIES, ShmFactory, agree
from ipcd_client.testing.wire_tools import LIMIT, MAX_FRAME, Worker, fill, message, pass_on, raw, ready, soon, transfer
from ipcd_client.wire import segment
from ipcd_client.wire.base import Wire
from ipcd_client.wire.shm import ShmWire

Wires = tuple[ShmWire, ShmWire]


def pair(first: int = CAPACITY) -> Wires:
    """Two ends that have agreed."""
    one, other = (ShmWire(sock, peer="the other end", first=first) for sock in ShmFactory().sockets())
    agree(one, other)
    return one, other


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ready(pair()) as ends:
        yield ends


def capacity(wire: ShmWire) -> int:
    """Of the segment that is sent through."""
    assert wire._out is not None
    return wire._out.capacity


def mapped() -> int:
    """Bytes of segments that are mapped here."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:ipcd" in line:
            begin, _, end = line.split()[0].partition("-")
            total += int(end, 16) - int(begin, 16)
    return total


class Model:
    """What was sent and has not come, of each end."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.under_way: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.count = 0

    def send(self, side: int, size: int, *, pieces: bool) -> None:
        self.count += 1
        payload = self.count.to_bytes(4, "little") * (size // 4 + 1)
        # One buffer goes another way than several.
        self.wires[side].send([*message(payload[:size]), b""] if pieces else [raw(payload[:size])])
        self.under_way[side].append(payload[:size])

    def receive(self, side: int) -> None:
        frame = self.wires[side].recv()
        if frame is not None:
            assert frame.payload == self.under_way[1 - side].popleft()

    def finish(self) -> None:
        """All comes, and nothing else."""
        while any(self.under_way):
            for side in (0, 1):
                self.wires[side].flush()
                self.receive(side)
        for wire in self.wires:
            assert wire.flush()
            assert wire.recv() is None


EDGES = [CAPACITY * times - HEADER_SIZE + by for times in (1, 2, 4, 10) for by in (-1, 0, 1)]
sides = st.integers(0, 1)
steps = st.one_of(
    st.tuples(
        st.just("send"),
        sides,
        st.one_of(st.integers(0, 100), st.sampled_from(EDGES), st.integers(0, 100_000)),
        st.booleans(),
    ),
    st.tuples(st.sampled_from(["receive", "flush", "shrink"]), sides, st.just(0), st.just(False)),
    st.tuples(st.just("receive"), sides, st.just(0), st.just(False)),
)


@settings(max_examples=200)
@given(script=st.lists(steps, max_size=80))
def test_frames_under_way_survive_growing_and_shrinking(script: list[tuple[str, int, int, bool]]) -> None:
    """Both directions, each switching when it likes, also at once."""
    with ready(pair()) as wires:
        model = Model(wires)
        for what, side, size, pieces in script:
            if what == "send":
                model.send(side, size, pieces=pieces)
            elif what == "receive":
                model.receive(side)
            elif what == "flush":
                wires[side].flush()
            else:
                wires[side].shrink()
        model.finish()


def carry(sender: ShmWire, receiver: ShmWire, payloads: list[bytes]) -> None:
    """Each in its turn, with what the ends have to say of themselves taken in, as by all who wait."""
    for payload in payloads:
        assert transfer(sender, receiver, [payload])[0].payload == payload
        for wire in (receiver, sender):
            while wire.poll(0):
                assert wire.recv() is None


@pytest.mark.parametrize("size", [CAPACITY - HEADER_SIZE + by for by in (-1, 0, 1)] + [10 * CAPACITY])
def test_messages_of_about_the_capacity(wires: Wires, size: int) -> None:
    for ends in (wires, wires[::-1]):
        carry(*ends, [bytes([number]) * size for number in range(30)])
        assert 2 * size <= capacity(ends[0]) <= 16 * size


def exchange(wires: Wires, sizes: list[int]) -> None:
    """Both ends send all of these at once, and receive the other's."""

    def work(wire: Wire) -> None:
        for number, size in enumerate(sizes):
            wire.send(message(bytes([number % 256]) * size))
        left = deque(enumerate(sizes))
        while left or wire.backlog:
            frame = wire.recv()
            if frame is not None:
                number, size = left.popleft()
                assert frame.payload == bytes([number % 256]) * size
            else:
                wire.poll(None, write=bool(wire.backlog))
                wire.flush()

    with Worker(lambda: work(wires[0])) as one, Worker(lambda: work(wires[1])) as other:
        one.join()
        other.join()


def test_both_directions_switch_at_once(wires: Wires) -> None:
    before = mapped()
    for _ in range(20):
        # Larger and larger, with small ones between.
        exchange(wires, [size for power in range(12, 19) for size in (1 << power, 0, 10)])
        for ends in (wires, wires[::-1]):
            carry(*ends, [bytes(1 << 18), b"", b""])
        assert all(capacity(wire) >= 1 << 19 for wire in wires)
        shrunk(wires)
        assert mapped() == before


def shrunk(wires: Wires) -> None:
    """With small traffic only, they become small."""
    for _ in range(6):
        for one, other in (wires, wires[::-1]):
            one.shrink()
            # Enough to come around in the large one: that says nothing of how much was needed.
            carry(one, other, [bytes(1000)] * 600)
    assert [capacity(wire) for wire in wires] == [CAPACITY, CAPACITY]
    assert [wire.shrink() for wire in wires] == [False, False]


def test_a_large_message_alone_keeps_the_segment_large(wires: Wires) -> None:
    one, other = wires
    carry(one, other, [bytes(1 << 17), b"", b""])
    for _ in range(6):
        assert one.shrink()
        carry(one, other, [bytes(1 << 17), b"", b""])
    assert capacity(one) >= 1 << 18


def test_what_comes_along_with_a_switch(ends: Ends) -> None:
    """An answer in the same read of the socket waits for nothing else, though there is a frame to return."""
    wire, hand = ends
    begun(hand)
    ours = RawSegment()
    hand.offer(1, CAPACITY, ours.parts)
    hand.heard()
    data = raw(b"in the segment")
    ours.write(data)
    ours.publish(len(data))
    frames = codec.encode(codec.SWITCH, 0, b"", 0, 1) + codec.encode(codec.ACCEPT, 0, hand.nonce, 0, 1)
    hand.send_with(b"".join(frames), [])
    assert wire.poll(None)
    frame = wire.recv()
    assert frame is not None
    assert frame.payload == b"in the segment"
    assert wire.agreed
    ours.close()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_what_this_end_published_is_received_though_it_asks_what_was_not(wires: Wires, how: str) -> None:
    """A server that has answered asks when it closes; the answer still is the peer's."""
    one, other = wires
    carry(one, other, [b"before"])
    one.send(message(b"answer"))
    assert one.untaken() == 0
    getattr(one, how)()
    assert other.recv_by(soon()).payload == b"answer"
    with pytest.raises(WireClosed):
        other.recv_by(soon())


def test_a_peer_that_declines_growth(ends: Ends) -> None:
    """It is asked once; what is large goes through what there is."""
    wire, hand = ends
    theirs = sending(hand)
    decoder = codec.Decoder(MAX_FRAME)
    for number in range(3):
        payload = bytes([number]) * (20 * CAPACITY)
        wire.send(message(payload))
        if not number:
            assert hand.hear_of(codec.OFFER).aux == 2
            hand.say(codec.DECLINE, 2, b"enough")
            hand.heard()
        while (frame := decoder.next()) is None:
            theirs.read(decoder)
            wire.flush()
        assert frame.payload == payload
    assert not wire.shrink()
    assert capacity(wire) == CAPACITY
    assert (wire.kind, wire.why_not) == ("shm", "")
    with pytest.raises(WireTimeout):
        hand.socket.recv_by(time.monotonic())


def test_the_largest_segment(wires: Wires) -> None:
    one, other = wires
    for wire in wires:
        wire.max_frame = 32 << 20
    carry(one, other, [b"", bytes(segment.LARGEST), *(bytes([number]) * (4 * segment.LARGEST) for number in range(3))])
    assert capacity(one) == segment.LARGEST


def test_fileno_waits_for_what_there_is_a_backlog_of(ends: Ends) -> None:
    """First the socket, then the segment: an event loop is told of either, and is not kept busy by the other."""
    wire, hand = ends
    watching = select.poll()
    watching.register(wire.fileno(), select.POLLIN)
    begun(hand)
    incoming = hand.accept()
    while not wire.backlog:
        wire.send(message(bytes(30_000)))  # over the socket: the answer has not been looked at
    assert wire.recv() is None
    wire.send(message(b"behind the switch"))
    while wire._queued < 1000:
        wire.send(message(bytes(1000)))
    streams = 0
    deadline = soon()
    while hand.hear().type != codec.SWITCH:
        streams += 1
        assert time.monotonic() < deadline
        if watching.poll(0):
            wire.flush()
    assert streams
    wire.flush()
    assert not watching.poll(0)
    decoder = codec.Decoder(MAX_FRAME)
    while incoming.read(decoder):
        pass
    assert watching.poll(LIMIT * 1000)
    assert wire.flush() or wire.backlog


@pytest.mark.parametrize("factory", FACTORIES, ids=repr)
def test_an_end_wakes_writers_in_other_threads(factory: ShmFactory) -> None:
    """Over and over, at any moment of their waiting: they see the end, and no other error."""

    def write(wire: Wire) -> None:
        try:
            while True:
                wire.send(message(bytes(3000)))
                while wire.backlog:
                    wire.poll_write(None)
                    wire.flush()
                    wire.fileno()
        except WireClosed:
            pass

    for _ in range(100):
        one, other = factory.pair()
        with Worker(lambda one=one: write(one)):  # type: ignore[misc]
            while not one.backlog:
                time.sleep(0)
            one.abort()
        other.abort()


def test_an_unread_offer_is_no_room_to_write() -> None:
    """As long as nothing is agreed, all goes over the socket, where the peer's offer may lie for a while."""
    sockets = ShmFactory().sockets()
    with ready((ShmWire(sockets[0], peer="other"), ShmWire(sockets[1], peer="one"))) as (one, other):
        fill(one)
        assert other.recv() is not None
        assert one.poll(LIMIT)
        fill(one)


def send_until_late(wire: Wire) -> None:
    while True:
        wire.send_by(message(bytes(500)), time.monotonic() + 0.1)


def test_a_reader_that_does_not_read(wires: Wires) -> None:
    """Its writer waits to its deadline; another connection of the same process is none the worse."""
    one, _ = wires
    with ready(pair()) as others:
        with pytest.raises(WireTimeout):
            send_until_late(one)
        for _ in range(100):
            assert transfer(*others, [b"x"])[0].payload == b"x"
    backlog = one.backlog
    assert 0 < backlog <= 500 + HEADER_SIZE
    assert not one.poll_write(0.01)
    for _ in range(CAPACITY // 500):
        pass_on(*wires)
    assert one.flush()
