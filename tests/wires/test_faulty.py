"""The faulty wire keeps the contract too, and goes wrong where it is told to; and what the other end makes of that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame.codec import HEADER_SIZE
from ipcd_client.testing.clock import FakeClock
from ipcd_client.testing.faulty import Corrupt, Cut, Delay, Fault, FaultyWire, Hold, Split
from ipcd_client.testing.fd_contract import FdContract
from ipcd_client.testing.wire_contract import WireContract
from ipcd_client.testing.wire_factories import MemoryFactory, UnixFactory, WireFactory
from ipcd_client.testing.wire_tools import LIMIT, Worker, drain, message, ready, soon
from ipcd_client.wire import memory
from ipcd_client.wire.base import Wire


class FaultyFactory(WireFactory):
    """Pairs whose ends both have the faults."""

    carries_fds = True

    def __init__(self, inner: WireFactory, *faults: Fault) -> None:
        self.inner = inner
        self.faults = faults

    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:
        one, other = self.inner.pair(accept_fds=accept_fds)
        return FaultyWire(one, *self.faults), FaultyWire(other, *self.faults)


class TestInOddPieces(WireContract, FdContract):
    factory = FaultyFactory(MemoryFactory(), Split(1237))


class TestInOddPiecesOverASocket(FdContract):
    factory = FaultyFactory(UnixFactory(), Split(1237))


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    with ready(memory.pair()) as wires:
        yield wires


def test_hold_and_release(ends: tuple[Wire, Wire]) -> None:
    faulty, other = FaultyWire(ends[0], Hold(HEADER_SIZE + 3)), ends[1]
    assert not faulty.send(message(b"abcdef"))
    assert (faulty.passed, faulty.backlog) == (HEADER_SIZE + 3, 3)
    assert other.recv() is None
    assert not faulty.poll_write(0.01)
    assert not faulty.poll(0.01, write=True)
    with Worker(lambda: faulty.poll_write(LIMIT)):
        faulty.release()
    assert faulty.flush()
    assert other.recv_by(soon()).payload == b"abcdef"


def test_what_comes_ends_a_wait_for_a_held_wire(ends: tuple[Wire, Wire]) -> None:
    faulty, other = FaultyWire(ends[0], Hold(0)), ends[1]
    faulty.send(message(b"held"))
    other.send(message(b"news"))
    assert faulty.poll(LIMIT, write=True)
    assert faulty.recv_by(soon()).payload == b"news"


def test_delays_go_by_the_clock(ends: tuple[Wire, Wire]) -> None:
    clock = FakeClock()
    faulty, other = FaultyWire(ends[0], Delay(0, 5.0), Delay(HEADER_SIZE, 1.0), clock=clock), ends[1]
    faulty.send(message(b""))
    faulty.send(message(b"second"))
    for seconds, comes in ((4.9, False), (0.1, True), (0.9, False), (0.1, True)):
        clock.advance(seconds)
        faulty.flush()
        assert (other.recv() is not None) == comes
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


@given(at=st.integers(0, 3 * (HEADER_SIZE + 10)))
def test_a_cut_anywhere_loses_no_whole_frame(at: int) -> None:
    one, other = memory.pair()
    faulty = FaultyWire(one, Cut(at))
    with pytest.raises(WireClosed, match="cut"):
        faulty.send([buffer for number in range(4) for buffer in message(bytes(10), number + 1)])
    frames = drain(other)
    assert [frame.stream for frame in frames] == list(range(1, at // (HEADER_SIZE + 10) + 1))
    assert faulty.closed
    other.abort()


@given(at=st.integers(0, HEADER_SIZE + 9), mask=st.integers(1, 255))
def test_a_changed_byte_is_in_one_place(at: int, mask: int) -> None:
    one, other = memory.pair()
    FaultyWire(one, Corrupt(at, mask), Split(4)).send(message(bytes(10), 5))
    one.close()
    try:
        frame = other.recv_by(soon())
    except (ProtocolError, WireClosed):
        assert at < HEADER_SIZE  # a type, flag or length that cannot be
    else:
        assert at >= HEADER_SIZE or frame != (3, 5, 0, 0, 0, bytes(10))
        assert at < HEADER_SIZE or frame.payload[at - HEADER_SIZE] == mask
    other.abort()


def test_faults_add_up(ends: tuple[Wire, Wire]) -> None:
    faulty, other = FaultyWire(ends[0], Split(5), Hold(40), Cut(100)), ends[1]
    faulty.send(message(bytes(14)) * 3)
    assert faulty.passed == 40
    assert other.recv_by(soon()).payload == bytes(14)
    faulty.release()
    faulty.flush()
    with pytest.raises(WireClosed):
        faulty.send(message(bytes(100)))
    assert len(drain(other)) == 2
