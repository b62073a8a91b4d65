"""The `shm` wire: frames through shared memory, beside the UNIX socket that it began on.

Both ends begin on the granted socket, and calls may be made over it at once. Each then offers a segment of its own
(see `segment.py`) for what it sends; the other maps it, proves that it reads what was written there, and from the next
frame on this direction goes through the segment. Either may decline: that direction stays on the socket. For a message
that does not fit well, a larger segment is offered in the same way, and a small one again when there was no further
use for it. The frames are those of proto/FRAME.md, section 10.

The socket stays: it carries offers, and its end is the peer's end. Waiting is one poll on the socket and on the
counter of the segment that is read.

Who changes what: receiving and sending are two threads' (`base.py`), and each has its segment. What a received frame
means for sending is handed over in `_next`, one assignment. The socket is written to by both, under `_writing`.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from ipcd_client.errors import ProtocolError, UsageError, WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Buffer, Decoder, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.wire import buffers, segment
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.base import Quick, Wire, millis
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.segment import Incoming, Outgoing
from ipcd_client.wire.unix import UnixWire

# While there is always something in the segment, the socket is looked at after this many reads.
_SOCKET_EVERY: Final = 64
_REASON_MOST: Final = 1024
_ENDED: Final = select.POLLHUP | select.POLLERR
# What travels with an offer: the memory and two counters.
_PARTS: Final = 3


class _Control(UnixWire):
    """The socket. Where descriptors do not fit into this process any more, that is no violation: they are declined."""

    def __init__(self, sock: socket.socket, *, peer: str) -> None:
        super().__init__(sock, peer=peer, accept_fds=True, allowed=codec.ALLOWED_ON_SHM)
        self.truncated = False

    def _keep_fds(self, control: Sequence[tuple[int, int, bytes]], flags: int) -> None:
        if flags & socket.MSG_CTRUNC:
            fds = fdlib.received(control, 0)
            fdlib.close_all(fds)
            if len(fds) == fdlib.MAX_FDS:
                raise ProtocolError("truncated-fds", f"more than {fdlib.MAX_FDS} descriptors in one message")
            self.truncated = True
        else:
            super()._keep_fds(control, flags)

    def give_up(self, why: str) -> None:
        """Nothing more will come, because of that."""
        self._end(why)

    @property
    def held(self) -> socket.socket:
        """The socket, which stays open as long as this is referred to."""
        return self._socket

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self._gone is not None

    @property
    def why_gone(self) -> str:
        """Why nothing more will come."""
        return self._why_gone()


class ShmWire(Wire):
    """One end. `first`: capacity of the first segment, in bytes."""

    kind = "shm"
    agreed = False

    def __init__(self, sock: socket.socket, *, peer: str, first: int = segment.SMALLEST) -> None:
        self._control = _Control(sock, peer=peer)
        self._writing = threading.Lock()
        self._first = first
        # receiving
        self._in: Incoming | None = None
        self._coming: tuple[int, Incoming] | None = None  # accepted, and not yet switched to
        self._unanswered: tuple[int, int, Sequence[Fd]] | None = None  # an offer that came before that
        self._last_offer = 0  # of the peer's
        self._decoder = Decoder(MAX_HELLO, codec.ALLOWED_ON_SHM, buffers.take)
        self._empty = True  # nothing is held: neither in the decoder, nor published and not copied
        self._reads = _SOCKET_EVERY
        # sending
        self._out: Outgoing | None = None
        self.quick: Quick | None = None  # the same, while there is nothing to see to but the next frame
        self._offered: tuple[int, Outgoing, bytes] | None = None  # and not yet answered
        self._next: tuple[int, Outgoing] | None = None  # accepted by the peer, to be switched to
        self._offers = 0
        self._capacity = 0  # of the last one that was offered
        self._grows = True
        self._queue: deque[memoryview | Outgoing] = deque()
        self._queued = 0
        self._largest = 0  # that was sent at once, in bytes, since `shrink` was asked
        # agreeing
        self._theirs = self._ours = False  # settled, whichever way
        self.why_not = ""  # why this is no shared memory, or not both ways
        self._reading = select.poll()
        self._reading.register(self._control, select.POLLIN)
        self.peek = self._reading.poll
        self._epoll: select.epoll | None = None  # what `fileno` stands for, once somebody has asked for it
        self._watched: dict[int, int] = {}
        self._without = ""  # why there can be no segments
        self._waits = (False, False)  # there is a backlog of the segment, of the socket
        self._lock = threading.Lock()
        self._began = False
        self._ended = False  # the peer has closed

    # -- agreeing ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Offers the first segment: behind the first frame, so that a peer's HELLO comes first."""
        if not self._began:
            self._began = True
            self._offer(self._first)

    def _offer(self, capacity: int) -> None:
        try:
            if self._without:
                raise OSError(self._without)
            outgoing, nonce, parts = segment.create(capacity)
        except OSError as error:
            self._grows = False
            if not self._ours:
                self._decline(0, f"no shared memory: {error.strerror or error}")
                self._settle(ours=True, why=f"this process has no shared memory: {error.strerror or error}")
            return
        self._offers += 1
        self._capacity = capacity
        self.grown = capacity > self._first
        self._offered = (self._offers, outgoing, nonce)
        self._tell(codec.OFFER, self._offers, capacity.to_bytes(4, "little"), parts)

    def _tell(self, type_: int, number: int, payload: bytes = b"", fds: Sequence[Fd] = ()) -> None:
        """Sends a frame over the socket."""
        try:
            with self._writing:
                self._control.send(codec.encode(type_, 0, payload, 0, number, len(fds)), fds)
        except WireClosed:
            pass  # the reader finds it closed
        self._count()

    def _decline(self, number: int, why: str) -> None:
        self._tell(codec.DECLINE, number, codec.cut(why, _REASON_MOST))

    def _settle(self, *, ours: bool = False, theirs: bool = False, why: str = "") -> None:
        self._ours = self._ours or ours
        self._theirs = self._theirs or theirs
        if why:
            self.kind = "unix"
            self.why_not = self.why_not or why
        self.agreed = self._ours and self._theirs

    def _on_control(self, frame: Frame) -> None:
        if frame.stream:
            raise ProtocolError("bad-segment", f"{codec.SHM_NAMES[frame.type]} on stream {frame.stream}")
        if frame.fds and frame.type != codec.OFFER:
            raise ProtocolError("unexpected-fds", f"{frame.fds} descriptors with {codec.SHM_NAMES[frame.type]}")
        if frame.type == codec.OFFER:
            self._on_offer(frame)
        elif frame.type == codec.SWITCH:
            if self._in is not None:
                raise ProtocolError("bad-segment", "SWITCH on the socket, behind the first")
            self._switch(frame)
        elif frame.type == codec.ACCEPT:
            number, outgoing, nonce = self._answered(frame)
            if frame.payload != nonce:
                raise ProtocolError("bad-segment", f"ACCEPT of segment {number} with the wrong nonce")
            self._settle(ours=True, why=self._without)
            if not self._without:
                self._next = (number, outgoing)
                self.quick = None  # so that the next frame goes the way on which `_next` is looked at
        elif frame.aux == 0:  # DECLINE: it makes none
            if self._theirs:
                raise ProtocolError("bad-segment", "DECLINE behind an offer")
            self._settle(theirs=True, why=f"{self.peer()}: {self._text(frame)}")
        else:
            self._answered(frame)
            self._grows = False
            if not self._ours:
                self._settle(ours=True, why=f"{self.peer()}: {self._text(frame)}")

    @staticmethod
    def _text(frame: Frame) -> str:
        return frame.payload[:_REASON_MOST].decode("utf-8", "replace")

    def _answered(self, frame: Frame) -> tuple[int, Outgoing, bytes]:
        offered, self._offered = self._offered, None
        if offered is None or offered[0] != frame.aux:
            name = codec.SHM_NAMES[frame.type]
            raise ProtocolError("bad-segment", f"{name} of segment {frame.aux}, which was not offered")
        return offered

    def _on_offer(self, frame: Frame) -> None:
        number = frame.aux
        truncated, self._control.truncated = self._control.truncated, False
        fds = self._control.take_fds(0 if truncated else frame.fds)
        # The first one says what is settled; each other comes when the one before was answered.
        if number != self._last_offer + 1 or self._unanswered is not None or (self._theirs and not self._last_offer):
            fdlib.close_all(fds)
            raise ProtocolError("bad-segment", f"OFFER of segment {number} behind {self._last_offer}")
        if len(frame.payload) != 4 or (len(fds) != _PARTS and not truncated):
            fdlib.close_all(fds)
            raise ProtocolError("bad-segment", f"OFFER with {len(frame.payload)} bytes and {len(fds)} descriptors")
        self._last_offer = number
        if truncated or self._without:
            fdlib.close_all(fds)
            self._cannot_take(number, self._without or "no room for more descriptors")
        elif self._coming is not None:
            # Answered when the peer has gone over to that one: so there are never more than these.
            self._unanswered = (number, int.from_bytes(frame.payload, "little"), fds)
        else:
            self._take(number, int.from_bytes(frame.payload, "little"), fds)

    def _take(self, number: int, capacity: int, fds: Sequence[Fd]) -> None:
        try:
            incoming = segment.take(fds, capacity)
        except OSError as error:
            fdlib.close_all(fds)
            self._cannot_take(number, error.strerror or str(error))
            return
        except ProtocolError:
            fdlib.close_all(fds)
            raise
        self._coming = (number, incoming)
        self._settle(theirs=True)
        self._tell(codec.ACCEPT, number, incoming.nonce)

    def _cannot_take(self, number: int, why: str) -> None:
        self._decline(number, f"cannot take the shared memory: {why}")
        if not self._theirs:
            self._settle(theirs=True, why=f"this process cannot take the peer's shared memory: {why}")

    def _switch(self, frame: Frame) -> None:
        """What the peer sends from here on is in the segment that it has offered."""
        coming, self._coming = self._coming, None
        if frame.payload:
            raise ProtocolError("long-payload", f"SWITCH with {len(frame.payload)} bytes")
        if coming is None or coming[0] != frame.aux or frame.stream or frame.fds:
            raise ProtocolError("bad-segment", f"SWITCH to segment {frame.aux}, which was not offered")
        previous, self._in = self._in, coming[1]
        if previous is not None:
            if previous.ready:
                raise ProtocolError("bad-segment", f"{previous.ready} bytes behind SWITCH")
            self._reading.unregister(previous.filled)
        self._reading.register(self._in.filled, select.POLLIN)
        self._watch()
        if self._unanswered is not None:
            waiting, self._unanswered = self._unanswered, None
            self._take(*waiting)

    # -- sending ----------------------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        if self.quick is not None and len(buffers) == 1 and not fds:
            try:
                if self.quick.put(bytes(buffers[0])):
                    return True
            except ProtocolError as error:
                raise self._broken(error) from None
        if fds:
            fdlib.close_all(fds)
            raise UsageError("descriptors do not travel over shared memory")
        if self.closed:
            raise WireClosed(self._control.why_gone)
        if self._next is not None:
            self._move()
        if self._out is None and not self._queue:
            with self._writing:
                self._control.send(buffers)
            self._begin()
            self._count()
            return not self.backlog
        self.quick = None
        size = 0
        for buffer in buffers:
            view = memoryview(buffer)
            if view:
                self._queue.append(view)
                size += len(view)
        self._queued += size
        # What waits counts like one large message: many small ones, faster than they are taken, need room as well.
        self._largest = max(self._largest, self._queued)
        if self._out is not None and self._queued > self._out.capacity // 2:
            self._grow(self._queued)
        return self.flush()

    def _move(self) -> None:
        """Goes over to the segment that the peer has accepted: behind what is queued, all of which is whole frames."""
        assert self._next is not None
        (number, outgoing), self._next = self._next, None
        frame = codec.encode(codec.SWITCH, 0, b"", 0, number)
        if self._out is None and not self._queue:
            with self._writing:
                self._control.send(frame)
            self._out = outgoing
            self._count()
        else:
            for buffer in frame:
                self._queue.append(memoryview(buffer))
                self._queued += len(buffer)
            self._queue.append(outgoing)

    def _grow(self, size: int) -> None:
        if not self._grows or self._offered is not None:
            return
        capacity = self._capacity
        # Room for several: the consumer gives back in quarters, and the producer is not to wait for that.
        while capacity < min(4 * size, segment.LARGEST):
            capacity *= 2
        if capacity > self._capacity:
            self._offer(min(capacity, segment.LARGEST))

    def shrink(self) -> bool:
        """Offers a small segment again, if nothing was sent since the last time this was asked that the small one would
        have been grown for. True if there is still something to give back. To be called as `send` is."""
        out = self._out
        if out is None or self.closed or not self._grows or out.capacity <= self._first:
            return False
        largest, self._largest = self._largest, 0
        if largest <= self._first // 2 and self._offered is None and not self._queue:
            if self._next is not None:
                self._move()
                self.flush()
            elif self._capacity > self._first:
                self._offer(self._first)
        return True

    def flush(self) -> bool:
        if self.closed:
            raise WireClosed(self._control.why_gone)
        if self._ended and self._queued:
            raise WireClosed(self._control.why_gone)
        if self._control.backlog:
            with self._writing:
                self._control.flush()
        queue, out = self._queue, self._out
        try:
            while queue:
                first = queue[0]
                if isinstance(first, Outgoing):
                    previous = out
                    if previous is not None:
                        previous.publish()
                        first.total = previous.total
                    self._out = out = first
                    queue.popleft()
                    self._watch()  # while there still is the previous one
                    continue
                if out is None:
                    break
                done = out.write(first)
                self._queued -= done
                if done < len(first):
                    queue[0] = first[done:]
                    break
                queue.popleft()
            if out is not None:
                out.publish()
        except ProtocolError as error:
            raise self._broken(error) from None
        except IndexError:
            pass  # an abort in another thread has emptied the queue
        self._count()
        if not queue and self._next is None:
            self.quick = out
        return not self.backlog

    def _broken(self, error: ProtocolError) -> WireClosed:
        self._control.give_up(f"{self.peer()}: {error}")
        self.shutdown()
        return WireClosed(self._control.why_gone)

    def _count(self) -> None:
        # Both threads do this: what one has computed before the other's change must not be set after it.
        with self._lock:
            self.backlog = self._queued + self._control.backlog
            before, self._waits = self._waits, (self._queued > 0, self._control.backlog > 0)
        if before != self._waits:
            self._watch()

    # -- receiving --------------------------------------------------------------------------------

    @property
    def max_frame(self) -> int:
        return self._decoder.max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self._decoder.max_frame = size
        self._control.max_frame = size

    def glance(self) -> bytes | None:
        incoming = self._in
        self._reads -= 1
        if incoming is None or not self._empty or not self._reads:
            return None
        try:
            return incoming.glance()
        except ProtocolError as error:
            self._broken(error)  # as recv then tells
            return None

    def put_back(self, data: bytes) -> None:
        self._empty = False
        self._decoder.feed(data)

    def recv(self) -> Frame | None:
        if self._reads <= 0:
            # There may always be something in the segment: now it is the socket's turn.
            self._reads = _SOCKET_EVERY
            frame = self._recv_socket() if self._empty else None
            if frame is not None:
                return frame
        self._reads -= 1
        return self._recv_segment()

    def _recv_segment(self) -> Frame | None:
        decoder = self._decoder
        while True:
            incoming = self._in
            if incoming is None:
                return self._recv_socket()
            frame = decoder.next()
            if frame is not None:
                self._empty = self.drained = not (incoming.ready or decoder.partial)
                if frame.type < codec.OFFER:
                    return frame
                if frame.type != codec.SWITCH or not self._empty:
                    name = codec.SHM_NAMES[frame.type]
                    raise ProtocolError("bad-segment", f"{name} in a segment, or something behind it")
                self._switch(frame)
                self._empty = False
            elif not incoming.read(decoder):
                self._empty = self.drained = not decoder.partial
                return self._recv_socket()

    def _recv_socket(self) -> Frame | None:
        self._begin()
        control = self._control
        switched = False
        while True:
            try:
                frame = control.recv()
            except WireClosed as error:
                incoming = self._in
                # What was published before the end is still to come.
                if incoming is not None and incoming.read(self._decoder):
                    return self._recv_segment()
                if self._decoder.partial:
                    raise WireClosed(f"{error} in the middle of a frame") from None
                raise
            if frame is None:
                # What is in the segment may be here before we have asked for it.
                return self._recv_segment() if switched else None
            if frame.type < codec.OFFER:
                if self._in is not None:
                    raise ProtocolError("bad-segment", f"{codec.NAMES[frame.type]} on the socket, behind SWITCH")
                self.drained = control.drained
                return frame
            self._on_control(frame)
            # What came with SWITCH is taken in at once, too: nothing would tell of it later.
            if frame.type == codec.SWITCH:
                self.drained = switched = True

    @property
    def sent(self) -> int:
        return self._queued + (self._out.total if self._out is not None else 0)

    def untaken(self) -> int:
        # The peer takes what was published by reading the counter, which nobody has done if it still stands there. To
        # look is to take it away: while the peer is there, that is for it to do, also when this end closes.
        out = self._out
        return self._queued + (out.untaken() if out is not None and self._control.ended else 0)

    def take_fds(self, count: int) -> list[Fd]:
        raise ProtocolError("unexpected-fds", f"{count} descriptors with a frame")

    # -- waiting ----------------------------------------------------------------------------------

    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        # Numbers must not be another file's while we are in poll: see sockets._Owned. Segments close theirs in the
        # same way, when the last thread has let go of them.
        held = (self._in, self._out, self._control.held)
        if self.closed or (write and not self.backlog):
            return True
        poller = self._reading
        if write or also >= 0:
            poller = select.poll()
            poller.register(held[2], select.POLLIN)
            if held[0] is not None:
                poller.register(held[0].filled, select.POLLIN)
            if also >= 0:
                poller.register(also, select.POLLIN)
            if write:
                self._register_writing(poller, held[1], held[2])
        return bool(poller.poll(0 if timeout == 0 else millis(timeout)))

    def _register_writing(self, poller: select.poll, out: Outgoing | None, sock: socket.socket) -> None:
        if self._control.backlog:
            poller.register(sock, select.POLLIN | select.POLLOUT)
        if self._queued and out is not None:
            poller.register(out.freed, select.POLLIN)

    def poll_write(self, timeout: float | None) -> bool:
        held = (self._out, self._control.held)
        if self.closed or not self.backlog:
            return True
        poller = select.poll()
        poller.register(held[1], 0)  # errors and hang-ups are always told
        self._register_writing(poller, *held)
        ready = poller.poll(millis(timeout))
        if any(mask & _ENDED for _, mask in ready):
            # A segment would take more, but nobody will take it out.
            self._control.give_up(f"{self.peer()} closed the connection")
            self._ended = True
        return bool(ready)

    def fileno(self) -> int:
        if self.closed:
            return -1
        if self._epoll is None and not self._without:
            self._make_epoll()
            self._watch()
        epoll = self._epoll
        if epoll is None:
            return self._control.fileno()
        try:
            return epoll.fileno()
        except ValueError:
            return -1  # an abort in another thread has closed it

    def _make_epoll(self) -> None:
        with self._lock:
            try:
                self._epoll = self._epoll or select.epoll(flags=select.EPOLL_CLOEXEC)
            except OSError as error:
                if self._in or self._coming or self._next or self._out:
                    raise
                # Nothing can wait for a socket and counters at once. There is the socket.
                self._without = f"no descriptor to wait for it with: {error.strerror or error}"

    def _watch(self) -> None:
        """Brings what `fileno` stands for up to date: the socket, the segment that is read, and while there is a
        backlog whatever it waits for. To be called before a descriptor is let go of: the peer has it too, so closing it
        would not take it out."""
        with self._lock:
            epoll = self._epoll
            if epoll is None or self.closed:
                return
            incoming, out = self._in, self._out
            socket_fd = self._control.fileno()
            # By what `_count` has last found: what waits only while `send` is at it is none of a watcher's business.
            segment_waits, socket_waits = self._waits
            wanted = {socket_fd: select.EPOLLIN | (select.EPOLLOUT if socket_waits else 0)}
            if incoming is not None:
                wanted[incoming.filled] = select.EPOLLIN
            if segment_waits and out is not None:
                wanted[out.freed] = select.EPOLLIN
            for fd in self._watched.keys() - wanted.keys():
                epoll.unregister(fd)
            for fd, mask in wanted.items():
                if fd not in self._watched:
                    epoll.register(fd, mask)
                elif self._watched[fd] != mask:
                    epoll.modify(fd, mask)
            self._watched = wanted

    # -- the end ----------------------------------------------------------------------------------

    def peer(self) -> str:
        return self._control.peer()

    def check(self) -> None:
        self._control.check()

    def shutdown(self) -> None:
        self._control.shutdown()

    def abort(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._control.abort()
        self._release()

    def abandon(self) -> None:
        # Locks may be held by threads that are not in this process.
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.closed = True
        self._control.abandon()
        self._release()

    def _release(self) -> None:
        # What is let go of here is closed when the last thread has left it.
        if self._epoll is not None:
            self._epoll.close()
        self._in = self._out = self.quick = self._coming = self._offered = self._next = self._unanswered = None
        self._queue = deque()
        self._queued = 0
        self.backlog = 0
