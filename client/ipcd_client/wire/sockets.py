"""What the wires over stream sockets share: the frames as they are, one behind the other."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame.codec import Buffer, Decoder, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.base import Wire, millis
from ipcd_client.wire.fds import Fd

READ_SIZE: Final = 64 * 1024
# The kernel takes at most IOV_MAX (1024) buffers in one call.
MAX_BUFFERS: Final = 512

_GONE: Final = {
    errno.ECONNRESET: "reset the connection",
    errno.EPIPE: "closed the connection",
    errno.ETIMEDOUT: "does not answer",
    errno.EHOSTUNREACH: "cannot be reached",
    errno.ENETUNREACH: "cannot be reached",
}


class SocketWire(Wire):
    """A connected stream socket, owned by the wire.

    Descriptors travel with the first byte of the frame that they belong to. The kernel never merges what was sent
    with different descriptors into one read, so they are here before their frame is, in the frames' order.
    """

    def __init__(self, sock: socket.socket, *, peer: str, accept_fds: bool = False) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._peer = peer
        self._accept_fds = accept_fds
        self._decoder = Decoder(MAX_HELLO)
        self._queue: deque[tuple[memoryview, Sequence[Fd]]] = deque()
        self._fds: deque[Fd] = deque()
        self._drained = False
        self._gone: str | None = None
        self._reading = select.poll()
        self._reading.register(sock, select.POLLIN)
        self._both = select.poll()
        self._both.register(sock, select.POLLIN | select.POLLOUT)

    def fileno(self) -> int:
        return self._socket.fileno()

    def peer(self) -> str:
        return self._peer

    @property
    def max_frame(self) -> int:
        return self._decoder.max_frame

    @max_frame.setter
    def max_frame(self, size: int) -> None:
        self._decoder.max_frame = size

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        if self.backlog or fds or len(buffers) > MAX_BUFFERS:
            for buffer in buffers:
                self._enqueue(memoryview(buffer), fds)
                fds = ()
            return self.flush()
        try:
            sent = self._socket.send(buffers[0]) if len(buffers) == 1 else self._socket.sendmsg(buffers)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._closed_by(error) from None
        for buffer in buffers:
            size = len(buffer)
            if sent < size:
                self._enqueue(memoryview(buffer)[sent:], ())
                sent = 0
            else:
                sent -= size
        return not self.backlog

    def _enqueue(self, view: memoryview, fds: Sequence[Fd]) -> None:
        if len(view):
            self._queue.append((view, fds))
            self.backlog += len(view)

    def flush(self) -> bool:
        queue = self._queue
        while queue:
            first, fds = queue[0]
            views = [first]
            for view, other_fds in list(queue)[1:MAX_BUFFERS] if not fds and len(queue) > 1 else ():
                if other_fds:
                    break
                views.append(view)
            try:
                sent = self._socket.sendmsg(views, fdlib.ancillary(fds))
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Descriptors in flight have reached the limit of this user: it ends when the peer reads.
                    return False
                raise self._closed_by(error) from None
            self.backlog -= sent
            for fd in fds:
                fd.close()
            for view in views:
                if sent >= len(view):
                    sent -= len(view)
                    queue.popleft()
                else:
                    queue[0] = (view[sent:], ())
                    break
        return True

    def recv(self) -> Frame | None:
        decoder = self._decoder
        frame = decoder.next()
        if frame is not None:
            return frame
        if self._drained:
            # The last read came back short, so another would only find nothing. poll() knows better.
            self._drained = False
            return None
        if self._gone is not None:
            raise WireClosed(self._gone)
        while frame is None:
            try:
                place = decoder.buffer()
                if place is not None:
                    count = self._recv_into(place)
                    asked = len(place)
                    decoder.filled(count)
                else:
                    data = self._recv()
                    count, asked = len(data), READ_SIZE
                    decoder.feed(data)
            except BlockingIOError:
                return None
            except OSError as error:
                raise self._closed_by(error) from None
            if not count:
                middle = " in the middle of a frame" if decoder.partial else ""
                raise self._end(f"{self._peer} closed the connection{middle}")
            frame = decoder.next()
            if count < asked and frame is None and decoder.buffer() is None:
                return None
            self._drained = count < asked
        return frame

    def _recv(self) -> bytes:
        if not self._accept_fds:
            return self._socket.recv(READ_SIZE)
        data, control, flags, _ = self._socket.recvmsg(READ_SIZE, fdlib.ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
        if control or flags & socket.MSG_CTRUNC:
            self._keep_fds(fdlib.received(control, flags))
        return data

    def _recv_into(self, place: memoryview) -> int:
        if not self._accept_fds:
            return self._socket.recv_into(place)
        count, control, flags, _ = self._socket.recvmsg_into([place], fdlib.ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
        if control or flags & socket.MSG_CTRUNC:
            self._keep_fds(fdlib.received(control, flags))
        return count

    def _keep_fds(self, fds: list[Fd]) -> None:
        self._fds += fds
        if len(self._fds) > 4 * fdlib.MAX_FDS:
            raise ProtocolError("too-many-fds", f"{len(self._fds)} descriptors came without a frame that names them")

    def take_fds(self, count: int) -> list[Fd]:
        if count > len(self._fds):
            raise ProtocolError("missing-fds", f"a frame names {count} descriptors, {len(self._fds)} came")
        return [self._fds.popleft() for _ in range(count)]

    def poll(self, timeout: float | None, *, write: bool = False) -> bool:
        return bool((self._both if write else self._reading).poll(millis(timeout)))

    def poll_write(self, timeout: float | None) -> bool:
        if self._socket.fileno() < 0:
            return True
        writing = select.poll()
        writing.register(self._socket, select.POLLOUT)
        return bool(writing.poll(millis(timeout)))

    def shutdown(self) -> None:
        self._gone = self._gone or f"the connection with {self._peer} was closed on this side"
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def abort(self) -> None:
        if self.closed:
            return
        self.closed = True
        # Wakes a thread of ours that polls the socket; closing alone would not.
        self.shutdown()
        self._release()

    def abandon(self) -> None:
        self.closed = True
        self._gone = "the connection belongs to the parent process"
        self._release()

    def _release(self) -> None:
        self._socket.close()
        for _, fds in self._queue:
            for fd in fds:
                fd.close()
        self._queue.clear()
        self.backlog = 0
        while self._fds:
            self._fds.popleft().close()

    def _end(self, why: str) -> WireClosed:
        self._gone = self._gone or why
        return WireClosed(self._gone)

    def _closed_by(self, error: OSError) -> WireClosed:
        if error.errno == errno.EBADF:
            return self._end(f"the connection with {self._peer} was closed on this side")
        words = _GONE.get(error.errno or 0)
        return self._end(f"{self._peer} {words}" if words else f"the connection with {self._peer} failed: {error}")
