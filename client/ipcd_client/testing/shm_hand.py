"""A peer of the `shm` wire whose every frame is sent by hand, and segments that are not as they should be."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from ipcd_client.frame import codec
from ipcd_client.frame.codec import Decoder, Frame
from ipcd_client.testing.wire_tools import MAX_FRAME, message, soon
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire import segment
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.segment import Incoming, Outgoing
from ipcd_client.wire.shm import ShmWire
from ipcd_client.wire.sockets import SocketWire

# Of each segment, unless a test says otherwise.
CAPACITY: Final = 4096
NONCE: Final = bytes(range(segment.NONCE_SIZE))


def memory(capacity: int = CAPACITY, *, seals: int = segment.SEALS, allocated: bool = True, flags: int = 0) -> Fd:
    """A memfd of `capacity` bytes, with a nonce at its beginning if it has any memory."""
    fd = Fd(os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags))
    os.ftruncate(fd.fileno(), capacity)
    if allocated and capacity:
        os.posix_fallocate(fd.fileno(), 0, capacity)
        os.pwrite(fd.fileno(), NONCE, 0)
    if seals:
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, seals)
    return fd


def counter(value: int = 0, flags: int = os.EFD_NONBLOCK) -> Fd:
    """An eventfd."""
    return Fd(os.eventfd(value, flags | os.EFD_CLOEXEC))


class RawSegment:
    """A segment whose memory and counters a test writes to as it likes. `parts` are for the peer."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        fd = memory(capacity, seals=0)
        self.memory = mmap.mmap(fd.fileno(), capacity)
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, segment.SEALS)
        self.filled = counter()
        self.freed = counter()
        self.capacity = capacity
        self._fd = fd

    @property
    def parts(self) -> list[Fd]:
        """Copies of the three descriptors, owned by the caller."""
        return [Fd(os.dup(fd.fileno())) for fd in (self._fd, self.filled, self.freed)]

    def write(self, data: bytes, at: int = 0) -> int:
        """Puts bytes into the memory, and publishes nothing. Where the next ones belong."""
        self.memory[at : at + len(data)] = data
        return at + len(data)

    def publish(self, count: int) -> None:
        """Tells of so many bytes."""
        os.eventfd_write(self.filled.fileno(), count)

    def given_back(self) -> int:
        """How many bytes the consumer has given back since the last time."""
        try:
            return os.eventfd_read(self.freed.fileno())
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Lets go of it."""
        self.memory.close()
        fdlib.close_all((self._fd, self.filled, self.freed))


class Hand:
    """One end of the socket of a ShmWire. Nothing is sent, and nothing answered, but what a test says. `wire`: the
    other end, where that is in this process."""

    def __init__(self, sock: socket.socket, wire: ShmWire | None = None) -> None:
        self.wire = wire
        self.socket = SocketWire(sock, peer="the wire", accept_fds=True, allowed=codec.ALLOWED_ON_SHM)
        self.socket.max_frame = MAX_FRAME
        self.offered: tuple[int, int, list[Fd]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """The peer's end."""
        self.socket.abort()
        if self.offered is not None:
            fdlib.close_all(self.offered[2])

    def say(
        self,
        type_: int,
        number: int = 0,
        payload: bytes = b"",
        fds: Sequence[Fd] = (),
        *,
        claimed: int | None = None,
        stream: int = 0,
    ) -> None:
        """Sends a frame over the socket. `claimed`: the number of descriptors that its header says."""
        count = len(fds) if claimed is None else claimed
        self.socket.send_by(codec.encode(type_, stream, payload, 0, number, count), soon(), fds)

    def send_with(self, data: bytes, fds: Sequence[Fd]) -> None:
        """Sends bytes, and with them any number of descriptors, which stay the caller's."""
        with socket.socket(fileno=os.dup(self.socket.fileno())) as sock:
            assert sock.sendmsg([data], fdlib.ancillary(fds)) == len(data)

    def message(self, payload: bytes = b"", stream: int = 1) -> None:
        """Sends a frame of a call over the socket."""
        self.socket.send_by(message(payload, stream), soon())

    def offer(self, number: int = 1, capacity: int = CAPACITY, parts: Sequence[Fd] | None = None) -> Outgoing | None:
        """OFFER, of a proper segment if no parts are given: our end of that."""
        outgoing = None
        if parts is None:
            outgoing, _, parts = segment.create(capacity)
        self.say(codec.OFFER, number, capacity.to_bytes(4, "little"), parts)
        return outgoing

    def switch(self, number: int = 1) -> None:
        """SWITCH, over the socket."""
        self.say(codec.SWITCH, number)

    def heard(self) -> None:
        """Lets the wire take in what was said, of which nothing is a call's."""
        assert self.wire is not None
        while self.wire.poll(0):
            assert self.wire.recv() is None

    def hear(self) -> Frame:
        """The next frame on the socket. The descriptors of an OFFER are kept."""
        frame = self.socket.recv_by(soon())
        if frame.type == codec.OFFER:
            fds = self.socket.take_fds(frame.fds)
            self.offered = (frame.aux, int.from_bytes(frame.payload, "little"), fds)
        return frame

    def hear_of(self, type_: int) -> Frame:
        """The next frame, of this type."""
        frame = self.hear()
        assert frame.type == type_, f"{frame} came"
        return frame

    def take(self) -> Incoming:
        """Our end of what was offered, without a word."""
        assert self.offered is not None
        (_, capacity, fds), self.offered = self.offered, None
        return segment.take(fds, capacity)

    @property
    def nonce(self) -> bytes:
        """What is at the beginning of what was offered."""
        assert self.offered is not None
        return os.pread(self.offered[2][0].fileno(), segment.NONCE_SIZE, 0)

    def accept(self, nonce: bytes | None = None) -> Incoming:
        """ACCEPT of what was offered: our end of it."""
        assert self.offered is not None
        number = self.offered[0]
        incoming = self.take()
        self.say(codec.ACCEPT, number, incoming.nonce if nonce is None else nonce)
        return incoming


Ends = tuple[ShmWire, Hand]


def wire_and_hand(first: int = CAPACITY) -> Ends:
    """A wire, and its peer by hand: nothing was said yet."""
    one, other = socket.socketpair()
    wire = ShmWire(one, peer="the hand", first=first)
    wire.max_frame = MAX_FRAME
    return wire, Hand(other, wire)


def begun(hand: Hand) -> None:
    """The wire has made its offer."""
    assert hand.wire is not None
    if hand.offered is None:
        assert hand.wire.recv() is None
        hand.hear_of(codec.OFFER)


def receiving(hand: Hand, capacity: int = CAPACITY) -> RawSegment:
    """The wire receives from a segment that the hand writes to as it likes, and has to close."""
    begun(hand)
    ours = RawSegment(capacity)
    hand.offer(1, capacity, ours.parts)
    hand.switch()
    hand.heard()
    hand.hear_of(codec.ACCEPT)
    return ours


def sending(hand: Hand) -> Incoming:
    """The wire sends through its segment from here on, of which the hand has the other end. One frame was sent."""
    begun(hand)
    incoming = hand.accept()
    hand.heard()
    assert hand.wire is not None
    hand.wire.send(message(b"first"))
    hand.hear_of(codec.SWITCH)
    decoder = Decoder(MAX_FRAME)
    assert incoming.read(decoder)
    first = decoder.next()
    assert first is not None
    assert first.payload == b"first"
    return incoming
