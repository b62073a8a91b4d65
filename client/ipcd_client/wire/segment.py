"""One direction of the `shm` wire: a ring of bytes in shared memory, and two counters.

The producer makes the memory, and is the only one who can write to it: a memfd that is sealed before the other end gets
it. Positions are private to each end. What the ends tell each other are numbers of bytes, through two eventfds used as
counting semaphores: the producer posts to `filled` what it has published, the consumer to `freed` what it has copied
out.

Ordering rests on these two alone: the kernel changes a counter under a lock, so what was stored before the write(2) is
seen after the read(2) that takes the number. The producer does not touch bytes before `freed` has told of them, and the
consumer none before `filled` has.

What a hostile peer can do: change bytes while they are copied out (what is looked at is the copy), and post any number
(which is checked against what there can be). It cannot make a read fault: the memory's pages exist, as is checked, and
the seals keep them from being taken away. It can clear O_NONBLOCK of a counter and drain it at the right moment, which
stops the thread that reads it; a process of the same user could stop us with a signal just as well.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from os import eventfd_read, eventfd_write
from typing import Final, NamedTuple

from ipcd_client.errors import ProtocolError
from ipcd_client.frame.codec import HEADER_SIZE, LARGE, Buffer, Decoder
from ipcd_client.wire.fds import Fd

PAGE: Final = mmap.PAGESIZE
# Capacities, in bytes. What an idle connection keeps in each direction, and the most that one is grown to.
SMALLEST: Final = 32 << 10
LARGEST: Final = 4 << 20
# The consumer takes this much of one direction at a time, so that it never copies far ahead of what it looks at.
_PIECE: Final = 32 << 10
# The producer publishes a large message in parts of this size, so that the consumer copies out while it copies in.
_PUBLISH: Final = 128 << 10

NONCE_SIZE: Final = 16

# linux/fcntl.h and linux/memfd.h; not in Python's modules.
_F_SEAL_FUTURE_WRITE: Final = 0x0010
_MFD_NOEXEC_SEAL: Final = 0x0008
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL


class Parts(NamedTuple):
    """What the producer gives to the consumer."""

    memory: Fd
    filled: Fd
    freed: Fd


def _full(what: str) -> ProtocolError:
    # It only is as high as that if somebody else has written to it.
    return ProtocolError("bad-count", f"the counter of {what} is full")


class Outgoing:
    """The producer's end. One thread at a time."""

    __slots__ = ("_at", "_filled", "_freed", "_memory", "_owned", "_unpublished", "capacity", "free", "total")

    def __init__(self, memory: mmap.mmap, filled: Fd, freed: Fd) -> None:
        self.total = 0  # bytes that were written here, and in the segments before
        self._memory = memory
        self._owned = (filled, freed)
        self._filled = filled.fileno()
        self._freed = freed.fileno()
        self._at = 0
        self._unpublished = 0
        self.capacity = len(memory)
        self.free = self.capacity

    def put(self, data: Buffer) -> int:
        """Writes and publishes all of it: its size. Or nothing: 0, where `write` is to be asked.

        Raises:
            ProtocolError: `bad-count`.
        """
        size = len(data)
        free = self.free - size
        if free < 0:
            if not self._reclaim() or size > self.free:
                return 0
            free = self.free - size
        at = self._at
        end = at + size
        if end < self.capacity:
            self._memory[at:end] = data
            self._at = end
        else:
            part = self.capacity - at
            self._memory[at:] = data[:part]
            self._at = end - self.capacity
            self._memory[: self._at] = data[part:]
        self.free = free
        self.total += size
        try:
            eventfd_write(self._filled, size)
        except BlockingIOError:
            raise _full("published bytes") from None
        return size

    def write(self, data: memoryview) -> int:
        """Writes what there is room for: how much. Large parts are published at once, the rest by `publish`.

        Raises:
            ProtocolError: `bad-count`.
        """
        size, done = len(data), 0
        while done < size:
            if not self.free and not self._reclaim():
                break
            at = self._at
            part = min(size - done, self.free, self.capacity - at, _PUBLISH)
            self._memory[at : at + part] = data[done : done + part]
            self._at = (at + part) % self.capacity
            self.free -= part
            self.total += part
            done += part
            self._unpublished += part
            if self._unpublished >= _PUBLISH:
                self.publish()
        return done

    def publish(self) -> None:
        """Tells the consumer of what was written."""
        size, self._unpublished = self._unpublished, 0
        if size:
            try:
                eventfd_write(self._filled, size)
            except BlockingIOError:
                raise _full("published bytes") from None

    def _reclaim(self) -> bool:
        self.publish()
        try:
            count = eventfd_read(self._freed)
        except BlockingIOError:
            return False
        if count > self.capacity - self.free:
            raise ProtocolError("bad-count", f"{count} bytes given back, {self.capacity - self.free} were out")
        self.free += count
        return True

    def untaken(self) -> int:
        """Bytes that were published and that the consumer never looked at. Ends the use of the segment."""
        try:
            return self._unpublished + eventfd_read(self._filled)
        except BlockingIOError:
            return self._unpublished

    @property
    def freed(self) -> int:
        """The descriptor that is readable when something was given back."""
        return self._freed


class Incoming:
    """The consumer's end. One thread at a time."""

    __slots__ = ("_at", "_filled", "_freed", "_memory", "_owned", "_share", "_taken", "_unclaimed", "capacity", "ready")

    def __init__(self, memory: mmap.mmap, filled: Fd, freed: Fd) -> None:
        self._memory = memory
        self._owned = (filled, freed)
        self._filled = filled.fileno()
        self._freed = freed.fileno()
        self._at = 0
        self.capacity = len(memory)
        self._unclaimed = 0  # published, as the counter said, and not yet looked at
        self.ready = 0  # published and not yet copied out
        self._taken = 0  # copied out and not yet given back
        # Given back in parts of this size: a system call each. The producer never waits for less than the rest.
        self._share = self.capacity // 4

    def glance(self) -> bytes | None:
        """All that was published, if it is not much, and not more than there can be. None: ask `read`."""
        try:
            ready = eventfd_read(self._filled)
        except BlockingIOError:
            return None
        taken = self._taken + ready
        if ready > _PIECE or taken > self.capacity:
            self._unclaimed = ready
            return None
        at = self._at
        end = at + ready
        if end < self.capacity:
            data = self._memory[at:end]
            self._at = end
        else:
            self._at = end - self.capacity
            data = self._memory[at:] + self._memory[: self._at]
        self._taken = taken
        if taken >= self._share:
            self._give_back()
        return data

    def read(self, decoder: Decoder) -> bool:
        """Copies a piece of what was published to the decoder. False: there is nothing.

        Raises:
            ProtocolError: `bad-count`.
        """
        ready = self.ready
        if not ready:
            ready, self._unclaimed = self._unclaimed, 0
            if not ready:
                try:
                    ready = eventfd_read(self._filled)
                except BlockingIOError:
                    return False
            self._claim(ready)
        at = self._at
        size = self.capacity - at
        size = min(size, ready)
        place = decoder.buffer()
        if place is None:
            # The header of what is large alone: the rest then goes straight to where it belongs.
            size = HEADER_SIZE if size > LARGE and not decoder.partial else min(size, _PIECE)
            decoder.feed(self._memory[at : at + size])
        else:
            size = min(size, len(place))
            place[:size] = memoryview(self._memory)[at : at + size]
            decoder.filled(size)
        at += size
        self._at = at if at < self.capacity else 0
        self.ready = ready - size
        self._taken += size
        if self._taken >= self._share:
            self._give_back()
        return True

    def _claim(self, ready: int) -> None:
        room = self.capacity - self._taken
        if ready > room:
            raise ProtocolError("bad-count", f"{ready} bytes published, there was room for {room}")

    def _give_back(self) -> None:
        size, self._taken = self._taken, 0
        try:
            eventfd_write(self._freed, size)
        except BlockingIOError:
            raise _full("bytes given back") from None

    @property
    def filled(self) -> int:
        """The descriptor that is readable when something was published."""
        return self._filled

    @property
    def nonce(self) -> bytes:
        """What the producer has put at the beginning, for proof that both look at the same memory."""
        return self._memory[:NONCE_SIZE]


def create(capacity: int) -> tuple[Outgoing, bytes, Parts]:
    """A segment of `capacity` bytes, a multiple of the page size: our end, its nonce, and what the other end needs.

    Raises:
        OSError: the system gives no memory, or no descriptors.
    """
    nonce = os.urandom(NONCE_SIZE)
    memory = _sealable()
    os.ftruncate(memory.fileno(), capacity)
    # Now, while it can still fail with an error: a page that is missing later would be a SIGBUS.
    os.posix_fallocate(memory.fileno(), 0, capacity)
    mapping = _map(memory, capacity, mmap.PROT_READ | mmap.PROT_WRITE)
    mapping[:NONCE_SIZE] = nonce
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, SEALS)
    filled, freed = _counter(), _counter()
    parts = Parts(memory, Fd(os.dup(filled.fileno())), Fd(os.dup(freed.fileno())))
    return Outgoing(mapping, filled, freed), nonce, parts


def _sealable() -> Fd:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with suppress(OSError):
        return Fd(os.memfd_create("ipcd", flags | _MFD_NOEXEC_SEAL))
    return Fd(os.memfd_create("ipcd", flags))  # before Linux 6.3


def _map(memory: Fd, capacity: int, protection: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(memory.fileno(), capacity, mmap.MAP_SHARED, protection, trackfd=False)
    # Keeps a duplicate of the descriptor, to be able to change the size.
    return mmap.mmap(memory.fileno(), capacity, mmap.MAP_SHARED, protection)


def _counter() -> Fd:
    return Fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))


def take(fds: Sequence[Fd], capacity: int) -> Incoming:
    """Our end of a segment that the peer has made, whose descriptors are ours to close from here on.

    Raises:
        ProtocolError: `bad-segment`: they are not what they have to be. Nothing was mapped.
        OSError: it cannot be mapped.
    """
    if not PAGE <= capacity <= LARGEST or capacity % PAGE:
        raise ProtocolError("bad-segment", f"{capacity} bytes, not a multiple of {PAGE} up to {LARGEST}")
    memory, filled, freed = fds
    _check_memory(memory.fileno(), capacity)
    for counter in (filled, freed):
        _check_counter(counter.fileno())
    mapping = _map(memory, capacity, mmap.PROT_READ)
    memory.close()
    return Incoming(mapping, filled, freed)


def _check_counter(fd: int) -> None:
    # Descriptors of files, pipes and sockets have a type here, those of eventfds, timers and the like none.
    if stat.S_IFMT(os.fstat(fd).st_mode):
        raise ProtocolError("bad-segment", "a counter that is not an eventfd")
    if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
        raise ProtocolError("bad-segment", "a counter that would block")
    try:
        with suppress(BlockingIOError):
            raise ProtocolError("bad-segment", f"a counter that begins at {eventfd_read(fd)}")
        # Nobody looks at it before SWITCH. Only an eventfd can be written to like this, and gives back what was put in;
        # one that is a semaphore would be read a byte at a time.
        eventfd_write(fd, 2)
        if eventfd_read(fd) != 2:
            raise ProtocolError("bad-segment", "a counter that does not count")
    except OSError:
        raise ProtocolError("bad-segment", "a counter that is not an eventfd") from None


def _check_memory(fd: int, capacity: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise ProtocolError("bad-segment", "the memory is not a memfd") from None
    if seals & SEALS != SEALS:
        raise ProtocolError("bad-segment", f"the memory's seals are {seals:#x}, {SEALS:#x} are needed")
    # Only now, as it cannot change any more.
    facts = os.fstat(fd)
    if facts.st_size != capacity:
        raise ProtocolError("bad-segment", f"the memory has {facts.st_size} bytes, {capacity} were said")
    # A page that does not exist, or a huge page that cannot be had, would be a SIGBUS.
    if facts.st_blocks * 512 < capacity:
        raise ProtocolError("bad-segment", f"only {facts.st_blocks * 512} of {capacity} bytes are allocated")
    if os.fstatvfs(fd).f_bsize != PAGE:
        raise ProtocolError("bad-segment", "the memory has huge pages")
    # Blocks behind the end of the file are counted as well. To ask for all that should be there changes nothing then.
    os.posix_fallocate(fd, 0, capacity)
    if os.fstat(fd).st_blocks != facts.st_blocks:
        raise ProtocolError("bad-segment", f"some of {capacity} bytes were not allocated")
