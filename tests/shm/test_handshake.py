"""What a peer may not say, and which segments are refused before anything of them is mapped."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Final

import pytest
from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.testing.shm_hand import (
    CAPACITY,
    NONCE,
    Hand,
    begun,
    counter,
    memory,
    receiving,
)
from ipcd_client.testing.wire_tools import message, soon, violation
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire import segment
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.shm import ShmWire

Ends = tuple[ShmWire, Hand]
Parts = list[Fd]

FALLOC_FL_KEEP_SIZE: Final = 1
SEALS: Final = {
    "shrink": fcntl.F_SEAL_SHRINK,
    "grow": fcntl.F_SEAL_GROW,
    "future write": 0x10,
    "seal": fcntl.F_SEAL_SEAL,
}


# -- segments -------------------------------------------------------------------------------------


def good(memfd: Fd | None = None) -> Parts:
    return [memfd or memory(), counter(), counter()]


def regular() -> Fd:
    fd, name = tempfile.mkstemp()
    os.unlink(name)  # noqa: PTH108
    os.write(fd, bytes(CAPACITY))
    return Fd(fd)


def pipe() -> Fd:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(writing)
    return Fd(reading)


def unix_socket() -> Fd:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        return Fd(sock.detach())


def device(name: str) -> Fd:
    return Fd(os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))


def shrunk() -> Fd:
    """Large once, and cut before it was sealed."""
    fd = memory(2 * CAPACITY, seals=0)
    os.ftruncate(fd.fileno(), CAPACITY // 2)
    fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, segment.SEALS)
    return fd


def half_allocated() -> Fd:
    fd = memory(seals=0, allocated=False)
    fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, segment.SEALS)
    return fd


def allocated_elsewhere() -> Fd:
    """As many blocks as there should be, but behind the end of the file."""
    fd = memory(seals=0, allocated=False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if libc.fallocate(fd.fileno(), FALLOC_FL_KEEP_SIZE, CAPACITY, CAPACITY):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, segment.SEALS)
    assert os.fstat(fd.fileno()).st_blocks * 512 == CAPACITY
    return fd


def in_shm_directory() -> Fd:
    """A file of the file system that memfds are of."""
    fd, name = tempfile.mkstemp(dir="/dev/shm")
    os.unlink(name)  # noqa: PTH108
    os.ftruncate(fd, CAPACITY)
    os.posix_fallocate(fd, 0, CAPACITY)
    return Fd(fd)


def blocking() -> Fd:
    return counter(flags=0)


def semaphore() -> Fd:
    return counter(flags=os.EFD_NONBLOCK | os.EFD_SEMAPHORE)


def timer() -> Fd:
    libc = ctypes.CDLL(None, use_errno=True)
    return Fd(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))


def epoll() -> Fd:
    with select.epoll() as made:
        fd = os.dup(made.fileno())
    os.set_blocking(fd, False)
    return Fd(fd)


def process() -> Fd:
    fd = os.pidfd_open(os.getpid())
    os.set_blocking(fd, False)
    return Fd(fd)


BAD_MEMORY: Final[dict[str, Callable[[], Fd]]] = {
    **{
        f"sealed with {' and '.join(names) or 'nothing'}": lambda names=names: memory(  # type: ignore[misc]
            seals=sum(SEALS[name] for name in names)
        )
        for count in range(len(SEALS))
        for names in itertools.combinations(SEALS, count)
    },
    "smaller than said": lambda: memory(CAPACITY // 2),
    "larger than said": lambda: memory(2 * CAPACITY),
    "one byte more": lambda: memory(CAPACITY + 1),
    "shrunk": shrunk,
    "empty": lambda: memory(0, allocated=False),
    "sparse": half_allocated,
    "allocated elsewhere": allocated_elsewhere,
    "a regular file": regular,
    "a file in /dev/shm": in_shm_directory,
    "a pipe": pipe,
    "a socket": unix_socket,
    "/dev/zero": lambda: device("/dev/zero"),
    "a counter": counter,
    "a process": process,
}
BAD_COUNTER: Final[dict[str, Callable[[], Fd]]] = {
    "a pipe": pipe,
    "a socket": unix_socket,
    "a regular file": regular,
    "/dev/zero": lambda: device("/dev/zero"),
    "a memfd": memory,
    "blocking": blocking,
    "a semaphore": semaphore,
    "a timer": timer,
    "an epoll": epoll,
    "a process": process,
    "not at 0": lambda: counter(1),
    "at its maximum": lambda: counter_at(2**64 - 2),
}


def counter_at(value: int) -> Fd:
    fd = counter()
    os.eventfd_write(fd.fileno(), value)
    return fd


@pytest.fixture
def unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the peer offers is not mapped: that would be for reading only."""
    real = segment._map

    def mapped(fd: Fd, capacity: int, protection: int) -> mmap.mmap:
        assert protection & mmap.PROT_WRITE, "what was offered was mapped"
        return real(fd, capacity, protection)

    monkeypatch.setattr(segment, "_map", mapped)


@pytest.mark.usefixtures("unmapped")
@pytest.mark.parametrize("kind", BAD_MEMORY)
def test_memory_that_is_refused(ends: Ends, kind: str) -> None:
    wire, hand = ends
    hand.offer(parts=good(BAD_MEMORY[kind]()))
    assert violation(wire) == "bad-segment"


@pytest.mark.usefixtures("unmapped")
@pytest.mark.parametrize("place", ["filled", "freed"])
@pytest.mark.parametrize("kind", BAD_COUNTER)
def test_counters_that_are_refused(ends: Ends, kind: str, place: str) -> None:
    wire, hand = ends
    parts = good()
    at = 1 + ["filled", "freed"].index(place)
    parts[at].close()
    parts[at] = BAD_COUNTER[kind]()
    hand.offer(parts=parts)
    assert violation(wire) == "bad-segment"


@pytest.mark.usefixtures("unmapped")
@pytest.mark.parametrize("order", [order for order in itertools.permutations(range(3)) if order[0]])
def test_parts_in_another_order(ends: Ends, order: tuple[int, ...]) -> None:
    wire, hand = ends
    parts = good()
    hand.offer(parts=[parts[at] for at in order])
    assert violation(wire) == "bad-segment"


@pytest.mark.usefixtures("unmapped")
@pytest.mark.parametrize("capacity", [0, 1, 2048, CAPACITY + 1, CAPACITY - 1, segment.LARGEST + CAPACITY, 2**32 - 4096])
def test_capacities_that_are_refused(ends: Ends, capacity: int) -> None:
    wire, hand = ends
    hand.offer(capacity=capacity, parts=good(memory(min(capacity, 2 * segment.LARGEST))))
    assert violation(wire) == "bad-segment"


@pytest.mark.usefixtures("unmapped")
@pytest.mark.parametrize("size", [segment.LARGEST // 2, segment.LARGEST])
def test_huge_pages_are_refused(ends: Ends, size: int) -> None:
    """Such memory can be made, sized and sealed where there are no such pages: reading it then is a SIGBUS."""
    wire, hand = ends
    try:
        fd = memory(size, allocated=False, flags=os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"this machine makes no memory of huge pages: {error.strerror}")
    with contextlib.suppress(OSError):
        os.posix_fallocate(fd.fileno(), 0, size)
    hand.offer(capacity=size, parts=good(fd))
    assert violation(wire) == "bad-segment"


@pytest.mark.parametrize("capacity", [CAPACITY, 3 * CAPACITY, segment.LARGEST])
def test_segments_that_are_taken(ends: Ends, capacity: int) -> None:
    """What the tests of refusals differ from in one thing."""
    wire, hand = ends
    hand.offer(capacity=capacity, parts=good(memory(capacity)))
    assert wire.recv() is None
    hand.hear_of(codec.OFFER)
    assert hand.hear_of(codec.ACCEPT) == (codec.ACCEPT, 0, 0, 1, 0, NONCE)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("claimed", [None, 3], ids=["claimed", "claimed to be 3"])
def test_too_few_and_too_many_descriptors(ends: Ends, count: int, claimed: int | None) -> None:
    """As few or many as the header says, or not as the header says."""
    wire, hand = ends
    parts = (good() + [counter() for _ in range(5)])[:count]
    hand.say(codec.OFFER, 1, CAPACITY.to_bytes(4, "little"), parts, claimed=claimed)
    expected = "bad-segment" if claimed is None else "missing-fds" if count < 3 else "unexpected-fds"
    assert violation(wire) == expected


def test_more_descriptors_than_one_message_may_bring(ends: Ends) -> None:
    """That is no lack of room here, so it is not answered as such."""
    wire, hand = ends
    parts = good() + [counter() for _ in range(6)]
    (frame,) = codec.encode(codec.OFFER, 0, CAPACITY.to_bytes(4, "little"), 0, 1, 3)
    hand.send_with(bytes(frame), parts)
    fdlib.close_all(parts)
    assert violation(wire) == "truncated-fds"


@pytest.mark.parametrize("payload", [b"", bytes(3), bytes(5), bytes(1000)])
def test_an_offer_of_another_length(ends: Ends, payload: bytes) -> None:
    wire, hand = ends
    hand.say(codec.OFFER, 1, payload, good())
    assert violation(wire) == "bad-segment"


# -- what is said, and in which order -------------------------------------------------------------


def accepted(hand: Hand) -> None:
    hand.offer()


def switched(hand: Hand) -> None:
    hand.offer()
    hand.switch()


def in_ring(*frames: list[codec.Buffer], also: int = 0, capacity: int = CAPACITY) -> Callable[[Hand], None]:
    """Publishes frames in a segment. `also`: one more segment is offered before."""

    def script(hand: Hand) -> None:
        ours = receiving(hand, capacity)
        if also:
            hand.offer(also)
            hand.heard()
        data = b"".join(buffer for frame in frames for buffer in frame)
        ours.write(data)
        ours.publish(len(data))
        ours.close()

    return script


def then(*steps: Callable[[Hand], object]) -> Callable[[Hand], None]:
    def script(hand: Hand) -> None:
        for step in steps:
            step(hand)

    return script


def answer(type_: int, by: int = 0, payload: bytes | None = None) -> Callable[[Hand], None]:
    """Answers the wire's offer, or one that is `by` higher."""

    def script(hand: Hand) -> None:
        assert hand.offered is not None
        hand.say(type_, hand.offered[0] + by, hand.nonce if payload is None else payload)

    return script


def says(
    type_: int, number: int = 0, payload: bytes = b"", *, claimed: int = 0, stream: int = 0
) -> Callable[[Hand], None]:
    return lambda hand: hand.say(type_, number, payload, claimed=claimed, stream=stream)


def offers(number: int) -> Callable[[Hand], object]:
    return lambda hand: hand.offer(number)


FORBIDDEN: Final[dict[str, tuple[Callable[[Hand], None], str]]] = {
    "the second offer first": (then(offers(2)), "bad-segment"),
    "offer 0": (then(offers(0)), "bad-segment"),
    "the same offer twice": (then(offers(1), offers(1)), "bad-segment"),
    "an offer left out": (then(offers(1), offers(3)), "bad-segment"),
    "two offers beyond the one that is taken": (then(offers(1), offers(2), offers(3)), "bad-segment"),
    "an offer behind having none": (then(says(codec.DECLINE), offers(1)), "bad-segment"),
    "an offer on a stream": (says(codec.OFFER, 1, b"\0\x10\0\0", stream=5), "bad-segment"),
    "accept of nothing": (says(codec.ACCEPT, 1, NONCE), "bad-segment"),
    "accept of 0": (answer(codec.ACCEPT, -1), "bad-segment"),
    "accept of the next": (answer(codec.ACCEPT, 1), "bad-segment"),
    "accept with another nonce": (answer(codec.ACCEPT, 0, NONCE), "bad-segment"),
    "accept with half a nonce": (answer(codec.ACCEPT, 0, NONCE[:8]), "bad-segment"),
    "accept with no nonce": (answer(codec.ACCEPT, 0, b""), "bad-segment"),
    "accept twice": (then(answer(codec.ACCEPT), answer(codec.ACCEPT)), "bad-segment"),
    "accept, then decline": (then(answer(codec.ACCEPT), answer(codec.DECLINE)), "bad-segment"),
    "decline, then accept": (then(answer(codec.DECLINE), answer(codec.ACCEPT)), "bad-segment"),
    "decline twice": (then(answer(codec.DECLINE), answer(codec.DECLINE)), "bad-segment"),
    "decline of the next": (answer(codec.DECLINE, 1), "bad-segment"),
    "having none twice": (then(says(codec.DECLINE), says(codec.DECLINE)), "bad-segment"),
    "having none behind an offer": (then(accepted, says(codec.DECLINE)), "bad-segment"),
    "switch before any offer": (says(codec.SWITCH, 1), "bad-segment"),
    "switch to what was not offered": (then(accepted, says(codec.SWITCH, 2)), "bad-segment"),
    "switch to 0": (then(accepted, says(codec.SWITCH, 0)), "bad-segment"),
    "switch twice": (then(switched, says(codec.SWITCH, 1)), "bad-segment"),
    "switch on the socket, from a segment": (then(switched, offers(2), says(codec.SWITCH, 2)), "bad-segment"),
    "switch on a stream": (then(accepted, says(codec.SWITCH, 1, stream=3)), "bad-segment"),
    "switch with a payload": (then(accepted, says(codec.SWITCH, 1, b"x")), "long-payload"),
    "switch with descriptors": (then(accepted, says(codec.SWITCH, 1, claimed=1)), "unexpected-fds"),
    "decline with descriptors": (says(codec.DECLINE, 0, claimed=2), "unexpected-fds"),
    "a call on the socket, behind switch": (then(switched, Hand.message), "bad-segment"),
    "offer in a segment": (in_ring(codec.encode(codec.OFFER, 0, bytes(4), 0, 2)), "bad-segment"),
    "accept in a segment": (in_ring(codec.encode(codec.ACCEPT, 0, NONCE, 0, 1)), "bad-segment"),
    "decline in a segment": (in_ring(codec.encode(codec.DECLINE, 0, b"", 0, 1)), "bad-segment"),
    "switch in a segment, unoffered": (in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2)), "bad-segment"),
    "switch in a segment, again": (in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 1)), "bad-segment"),
    "an unknown type in a segment": (in_ring([codec.HEADER.pack(0, 0, 20, 0, 0, 0)]), "unknown-type"),
    "garbage in a segment": (in_ring([b"GET / HTTP/1.1\r\n\r\n"]), "unknown-type"),
    "switch in a segment, on a stream": (in_ring(codec.encode(codec.SWITCH, 3, b"", 0, 2), also=2), "bad-segment"),
    "switch in a segment, with a payload": (in_ring(codec.encode(codec.SWITCH, 0, b"x", 0, 2), also=2), "long-payload"),
    "switch in a segment, with descriptors": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2, 3), also=2),
        "bad-segment",
    ),
    "a byte behind a switch in a segment": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2), [b"x"], also=2),
        "bad-segment",
    ),
    "much behind a switch in a segment": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2), message(bytes(50_000)), also=2, capacity=1 << 16),
        "bad-segment",
    ),
    "an oversized frame in a segment": (in_ring([codec.HEADER.pack(2**32 - 1, 1, 3, 0, 0, 0)]), "oversized-frame"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_may_not_be_said(ends: Ends, what: str) -> None:
    wire, hand = ends
    script, name = FORBIDDEN[what]
    begun(hand)
    script(hand)
    assert violation(wire) == name


IN_ORDER: Final[dict[str, tuple[Callable[[Hand], None], list[int]]]] = {
    "nothing": (then(), []),
    "an offer": (accepted, [codec.ACCEPT]),
    "an offer and a switch": (switched, [codec.ACCEPT]),
    "one more offer while one is taken": (then(offers(1), offers(2)), [codec.ACCEPT]),
    "one more offer, both switched to": (
        then(offers(1), offers(2), says(codec.SWITCH, 1)),
        [codec.ACCEPT, codec.ACCEPT],
    ),
    "its offer declined": (answer(codec.DECLINE), []),
    "its offer accepted": (answer(codec.ACCEPT), []),
    "none of the peer's": (says(codec.DECLINE, 0, b"why not"), []),
}


@pytest.mark.parametrize("what", IN_ORDER)
def test_what_may_be_said_and_then_the_end(ends: Ends, what: str) -> None:
    """At each step of agreeing the peer may go: that is seen at once, and nothing is kept (the leak check looks)."""
    wire, hand = ends
    script, answers = IN_ORDER[what]
    begun(hand)
    script(hand)
    hand.heard()
    assert [hand.hear().type for _ in answers] == answers
    hand.close()
    with pytest.raises(WireClosed):
        wire.recv_by(soon())
