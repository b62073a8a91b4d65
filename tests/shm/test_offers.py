"""Which segments are taken, and which refused before anything of them is mapped."""

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
from ipcd_client.frame import codec
from ipcd_client.testing.shm_hand import CAPACITY, NONCE, Ends, counter, memory
from ipcd_client.testing.wire_tools import violation
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire import segment
from ipcd_client.wire.fds import Fd

Parts = list[Fd]

FALLOC_FL_KEEP_SIZE: Final = 1
SEALS: Final = {
    "shrink": fcntl.F_SEAL_SHRINK,
    "grow": fcntl.F_SEAL_GROW,
    "future write": 0x10,
    "seal": fcntl.F_SEAL_SEAL,
}


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
