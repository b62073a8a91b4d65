"""The `shm` wire: frames through shared memory, beside the UNIX socket that it began on.

Both ends begin on the granted socket, and calls may be made over it at once. Each then offers a segment of its own
(see `segment.py`) for what it sends; the other maps it, proves that it reads what was written there, and from the next
frame on this direction goes through the segment. Either may decline: that direction stays on the socket. For a message
that does not fit well, a larger segment is offered in the same way, and a small one again when there was no further
use for it. What is said about that is in `agreement.py`; here is the way of the frames.

The socket stays: it carries offers, and its end is the peer's end. Waiting is one poll on the socket and on the
counter of the segment that is read.

Who changes what: receiving and sending are two threads' (`base.py`), and each has its segment. What a received frame
means for sending is handed over by the agreement. Both write to the socket, which has a lock for that (`control.py`).
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
from ipcd_client.wire import agreement, buffers, segment
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.agreement import Agreement
from ipcd_client.wire.base import Quick, Wire, millis, pieces
from ipcd_client.wire.control import Control
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.segment import Incoming, Outgoing
from ipcd_client.wire.watch import Watch

# While there is always something in the segment, the socket is looked at after this many reads.
_SOCKET_EVERY: Final = 64
_ENDED: Final = select.POLLHUP | select.POLLERR


class ShmWire(Wire):
    """One end. `first`: capacity of the first segment, in bytes."""

    kind = "shm"
    agreed = False

    def __init__(self, sock: socket.socket, *, peer: str, first: int = segment.SMALLEST) -> None:
        self._control = Control(sock, peer=peer)
        self._agreement = Agreement(self._control)
        self._first = first
        # receiving
        self._in: Incoming | None = None
        self._decoder = Decoder(MAX_HELLO, codec.ALLOWED_ON_SHM, buffers.take)
        self._empty = True  # nothing is held: neither in the decoder, nor published and not copied
        self._reads = _SOCKET_EVERY
        # sending
        self._out: Outgoing | None = None
        self.quick: Quick | None = None  # the same, while there is nothing to see to but the next frame
        self._queue: deque[memoryview | Outgoing] = deque()
        self._queued = 0
        self._largest = 0  # that was sent at once, in bytes, since `shrink` was asked
        # waiting
        self._reading = select.poll()
        self._reading.register(self._control, select.POLLIN)
        self.peek = self._reading.poll
        self._watch: Watch | None = None  # what `fileno` stands for, once somebody has asked for it
        self._waits = (False, False)  # there is a backlog of the segment, of the socket
        self._lock = threading.Lock()  # of `_waits`, `_watch` and `closed`
        self._ended = False  # the peer has closed

    # -- agreeing ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Offers the first segment: behind the first frame, so that a peer's HELLO comes first."""
        if self._agreement.begin(self._first):
            self._follow()

    def _offer(self, capacity: int) -> None:
        self._agreement.offer(capacity)
        self.grown = self._agreement.capacity > self._first
        self._follow()

    def _on_control(self, frame: Frame) -> None:
        agreement.check(frame)
        if frame.type != codec.SWITCH:
            self._agreement.receive(frame)
            self._follow()
        elif self._in is None:
            self._switch(frame)
        else:
            raise ProtocolError("bad-segment", "SWITCH on the socket, behind the first")

    def _switch(self, frame: Frame) -> None:
        previous, self._in = self._in, self._agreement.switch(frame)
        if previous is not None:
            if previous.ready:
                raise ProtocolError("bad-segment", f"{previous.ready} bytes behind SWITCH")
            self._reading.unregister(previous.filled)
        self._reading.register(self._in.filled, select.POLLIN)
        self._rewatch()
        self._agreement.answer_waiting()
        self._follow()

    def _follow(self) -> None:
        """Shows what the agreement has come to, and counts what it has sent."""
        agreed = self._agreement
        if agreed.accepted is not None:
            self.quick = None  # so that the next frame goes the way on which that is looked at
        if agreed.why_not:
            self.kind = "unix"
            self.why_not = agreed.why_not
        self.agreed = agreed.settled
        self._count()

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
        if self._agreement.accepted is not None:
            self._move()
        if self._out is None and not self._queue:
            self._control.send(buffers)
            self._begin()
            self._count()
            return not self.backlog
        self.quick = None
        self._enqueue(buffers)
        # What waits counts like one large message: many small ones, faster than they are taken, need room as well.
        self._largest = max(self._largest, self._queued)
        if self._out is not None and self._queued > self._out.capacity // 2:
            self._grow(self._queued)
        return self.flush()

    def _enqueue(self, buffers: Sequence[Buffer]) -> None:
        for view, _ in pieces(buffers):
            self._queue.append(view)
            self._queued += len(view)

    def _move(self) -> None:
        """Goes over to the segment that the peer has accepted: behind what is queued, all of which is whole frames."""
        accepted = self._agreement.pop_accepted()
        if accepted is None:
            return  # an abort in another thread has dropped it
        number, outgoing = accepted
        frame = codec.encode(codec.SWITCH, 0, b"", 0, number)
        if self._out is None and not self._queue:
            self._control.send(frame)
            self._out = outgoing
            self._count()
        else:
            self._enqueue(frame)
            self._queue.append(outgoing)

    def _grow(self, size: int) -> None:
        if not self._agreement.grows or self._agreement.pending:
            return
        before = capacity = self._agreement.capacity
        # Room for several: the consumer gives back in quarters, and the producer is not to wait for that.
        while capacity < min(4 * size, segment.LARGEST):
            capacity *= 2
        if capacity > before:
            self._offer(min(capacity, segment.LARGEST))

    def shrink(self) -> bool:
        """Offers a small segment again, if nothing was sent since the last time this was asked that the small one would
        have been grown for. True if there is still something to give back. To be called as `send` is."""
        out = self._out
        if out is None or self.closed or not self._agreement.grows or out.capacity <= self._first:
            return False
        largest, self._largest = self._largest, 0
        if largest <= self._first // 2 and not self._agreement.pending and not self._queue:
            if self._agreement.accepted is not None:
                self._move()
                self.flush()
            elif self._agreement.capacity > self._first:
                self._offer(self._first)
        return True

    def flush(self) -> bool:
        if self.closed:
            raise WireClosed(self._control.why_gone)
        if self._ended and self._queued:
            raise WireClosed(self._control.why_gone)
        if self._control.backlog:
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
                    self._rewatch()  # while there still is the previous one
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
        if not queue and self._agreement.accepted is None:
            self.quick = out
        return not self.backlog

    def _broken(self, error: ProtocolError) -> WireClosed:
        closed = self._control.give_up(f"{self.peer()} broke the protocol: {error}", error.violation)
        self.shutdown()
        return closed

    def _count(self) -> None:
        # Both threads do this: what one has computed before the other's change must not be set after it.
        with self._lock:
            self.backlog = self._queued + self._control.backlog
            before, self._waits = self._waits, (self._queued > 0, self._control.backlog > 0)
        if before != self._waits:
            self._rewatch()

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
                self._register_writing(poller, held[1], held[2], select.POLLIN)
        return bool(poller.poll(0 if timeout == 0 else millis(timeout)))

    def _register_writing(self, poller: select.poll, out: Outgoing | None, sock: socket.socket, also: int) -> None:
        if self._control.backlog:
            poller.register(sock, select.POLLOUT | also)
        if self._queued and out is not None:
            poller.register(out.freed, select.POLLIN)

    def poll_write(self, timeout: float | None) -> bool:
        held = (self._out, self._control.held)
        if self.closed or not self.backlog:
            return True
        poller = select.poll()
        poller.register(held[1], 0)  # errors and hang-ups are always told
        # What there is to read is another thread's business, and may stay there.
        self._register_writing(poller, *held, 0)
        ready = poller.poll(millis(timeout))
        if any(mask & _ENDED for _, mask in ready):
            # A segment would take more, but nobody will take it out.
            self._control.give_up(f"{self.peer()} closed the connection")
            self._ended = True
        return bool(ready)

    def fileno(self) -> int:
        if self.closed:
            return -1
        if self._watch is None and not self._agreement.without:
            self._make_watch()
            self._rewatch()
        watch = self._watch
        return watch.fileno() if watch is not None else self._control.fileno()

    def _make_watch(self) -> None:
        with self._lock:
            try:
                self._watch = self._watch or Watch()
            except OSError as error:
                why = f"no descriptor to wait for it with: {error.strerror or error}"
                # Nothing can wait for a socket and counters at once. There is the socket.
                if self._in is not None or self._out is not None or not self._agreement.renounce(why):
                    raise

    def _rewatch(self) -> None:
        """Brings what `fileno` stands for up to date: the socket, the segment that is read, and while there is a
        backlog whatever it waits for."""
        with self._lock:
            if self._watch is None or self.closed:
                return
            incoming, out = self._in, self._out
            # By what `_count` has last found: what waits only while `send` is at it is none of a watcher's business.
            segment_waits, socket_waits = self._waits
            wanted = {self._control.fileno(): select.EPOLLIN | (select.EPOLLOUT if socket_waits else 0)}
            if incoming is not None:
                wanted[incoming.filled] = select.EPOLLIN
            if segment_waits and out is not None:
                wanted[out.freed] = select.EPOLLIN
            self._watch.set(wanted)

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
        self.closed = True
        self._control.abandon()
        self._release()

    def _release(self) -> None:
        # What is let go of here is closed when the last thread has left it.
        if self._watch is not None:
            self._watch.close()
        self._agreement.drop()
        self._in = self._out = self.quick = None
        self._queue = deque()
        self._queued = 0
        self.backlog = 0
