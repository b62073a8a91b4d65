"""What the wires over stream sockets share: the frames as they are, one behind the other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from ipcd_client.errors import ProtocolError, WireClosed, WireLost
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Buffer, Decoder, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.wire import buffers
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.base import Wire, millis, pieces
from ipcd_client.wire.fds import Fd

READ_SIZE: Final = 64 * 1024
# The kernel takes at most IOV_MAX (1024) buffers in one call.
MAX_BUFFERS: Final = 512
_BUFFERS_FIRST: Final = 16
# Bytes that the kernel counts at least for a message on a UNIX socket (Linux 6: 768).
_BUFFER_LEAST: Final = 512

_GONE: Final = {
    errno.ECONNRESET: "reset the connection",
    errno.EPIPE: "closed the connection",
    errno.ETIMEDOUT: "does not answer",
    errno.EHOSTUNREACH: "cannot be reached",
    errno.ENETUNREACH: "cannot be reached",
}
# Of these the peer has not said anything.
_SILENT: Final = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}


class _Owned(socket.socket):
    """A socket that is closed when the last thread has left it.

    Closing at once would free the number while another thread is about to read from it or to poll it: the kernel
    gives it to the next file that is opened, and the thread then has that one. A method call holds a reference, so
    dropping ours is safe.
    """

    def __del__(self) -> None:
        self.close()


# Takes the socket's place once the wire is closed: everything on it fails with EBADF.
_CLOSED: Final = socket.socket(socket.AF_UNIX)
_CLOSED.close()


class SocketWire(Wire):
    """A connected stream socket, owned by the wire: the object that was given is detached from it.

    Descriptors travel with the first byte of the frame that they belong to. The kernel never merges what was
    sent with different descriptors into one read, so they are here before their frame is, in the frames'
    order.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        peer: str,
        accept_fds: bool = False,
        allowed: Mapping[int, int] = codec.ALLOWED_FLAGS,
    ) -> None:
        owned = _Owned(sock.family, sock.type, sock.proto, sock.detach())
        owned.setblocking(False)
        self._socket: socket.socket = owned
        self._peer = peer
        self._accept_fds = accept_fds
        self._decoder = Decoder(MAX_HELLO, allowed, buffers.take)
        self._queue: deque[tuple[memoryview, Sequence[Fd]]] = deque()
        self._fds: deque[Fd] = deque()
        self._short = False  # the last read brought less than was asked for
        self._gone: str | None = None  # why nothing more will come
        self._lost = False  # and the peer has not ended it
        self._passing = threading.Lock()  # descriptors that wait to be sent are sent or closed under it
        self._passed = 0  # descriptors sent since the peer had certainly read all
        self._reading = select.poll()
        self._reading.register(owned, select.POLLIN)
        # Once closed, the number may be another file's: then recv finds out.
        self.peek = self._reading.poll
        self._both = select.poll()
        self._both.register(owned, select.POLLIN | select.POLLOUT)

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
            fdlib.check_count(fds)
            if self.closed:
                fdlib.close_all(fds)
                raise WireClosed(self._why_gone())
            self._enqueue(buffers, fds)
            return self.flush()
        try:
            sent = self._socket.send(buffers[0]) if len(buffers) == 1 else self._socket.sendmsg(buffers)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._unsent(error) from None
        for buffer in buffers:
            size = len(buffer)
            if sent < size:
                self._enqueue((memoryview(buffer)[sent:],), ())
                sent = 0
            else:
                sent -= size
        return not self.backlog

    def _enqueue(self, buffers: Sequence[Buffer], fds: Sequence[Fd]) -> None:
        queued = pieces(buffers, fds)
        self._queue.extend(queued)
        self.backlog += sum(len(view) for view, _ in queued)

    def flush(self) -> bool:
        if self.closed:
            raise WireClosed(self._why_gone())
        # An abort in another thread replaces the queue; this one then finds the socket closed.
        queue = self._queue
        # Few at first: where the peer does not read, it is tried with each message that is added, and in vain.
        most = _BUFFERS_FIRST
        while queue:
            first, fds = queue[0]
            views = [first]
            if not fds:
                for view, other_fds in islice(queue, 1, most):
                    if other_fds:
                        break
                    views.append(view)
            try:
                sent = self._pass_on(first, fds) if fds else self._socket.sendmsg(views)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Descriptors in flight have reached the limit of this user: it ends when the peer reads.
                    return False
                raise self._unsent(error) from None
            most = MAX_BUFFERS
            self.backlog = max(0, self.backlog - sent)
            for view in views:
                if sent >= len(view):
                    sent -= len(view)
                    queue.popleft()
                else:
                    queue[0] = (view[sent:], ())
                    break
        return True

    def _pass_on(self, view: memoryview, fds: Sequence[Fd]) -> int:
        # Under the lock, so that an abort does not close them, and free their numbers, on their way.
        with self._passing:
            if self.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sent = self._socket.sendmsg([view], fdlib.ancillary(fds))
            fdlib.close_all(fds)
            self._passed += len(fds)
            return sent

    def hung_up(self) -> bool:
        held = self._socket
        if self.closed:
            return True
        asked = select.poll()
        asked.register(held, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in asked.poll(0))

    def unread_fds(self) -> int:
        held = self._socket
        if self.closed:
            return 0
        if self._passed:
            with contextlib.suppress(OSError):
                (unread,) = struct.unpack("i", fcntl.ioctl(held.fileno(), termios.TIOCOUTQ, bytes(4)))
                # It counts whole buffers, and what comes with descriptors has one of its own.
                self._passed = min(self._passed, -(-unread // _BUFFER_LEAST))
        return self._passed + sum(len(fds) for _, fds in self._queue)

    def recv(self) -> Frame | None:
        decoder = self._decoder
        frame = decoder.next()
        if frame is not None:
            self.drained = self._short and not decoder.partial
            return frame
        if self._fds and not decoder.partial:
            # What comes next brings its own.
            fdlib.check_named(self._fds)
        if self._gone is not None:
            raise self._end(self._gone)
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
                raise self._end(self._words(error) + self._where()) from None
            if not count:
                raise self._end(f"{self._peer} closed the connection{self._where()}")
            frame = decoder.next()
            self._short = count < asked
            if self._short and frame is None and decoder.buffer() is None:
                return None
        # A read that came back short has taken all: another would only find nothing. poll() knows better.
        self.drained = self._short and not decoder.partial
        return frame

    def glance(self) -> bytes | None:
        if self._accept_fds or self._gone is not None or self._decoder.partial:
            return None
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            self._end(self._words(error))
            return None
        if not data:
            self._end(f"{self._peer} closed the connection")
            return None
        return data

    def put_back(self, data: bytes) -> None:
        self._short = len(data) < READ_SIZE
        self._decoder.feed(data)

    def _where(self) -> str:
        return " in the middle of a frame" if self._decoder.partial else ""

    def _recv(self) -> bytes:
        if not self._accept_fds:
            return self._socket.recv(READ_SIZE)
        data, control, flags, _ = self._socket.recvmsg(READ_SIZE, fdlib.ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
        if control or flags & socket.MSG_CTRUNC:
            self._keep_fds(control, flags)
        return data

    def _recv_into(self, place: memoryview) -> int:
        if not self._accept_fds:
            return self._socket.recv_into(place)
        count, control, flags, _ = self._socket.recvmsg_into([place], fdlib.ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
        if control or flags & socket.MSG_CTRUNC:
            self._keep_fds(control, flags)
        return count

    def _keep_fds(self, control: Sequence[tuple[int, int, bytes]], flags: int) -> None:
        self._fds += fdlib.received(control, flags)
        if len(self._fds) > 4 * fdlib.MAX_FDS:
            raise ProtocolError("too-many-fds", f"{len(self._fds)} descriptors came without a frame that names them")

    def take_fds(self, count: int) -> list[Fd]:
        try:
            return fdlib.pop(self._fds, count)
        except IndexError:
            raise WireClosed(self._why_gone()) from None  # an abort has closed them meanwhile

    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        _held = self._socket  # see _Owned
        if self.closed:
            return True
        poller = self._both if write else self._reading
        if also < 0:
            return bool(poller.poll(millis(timeout)))
        poller.register(also, select.POLLIN)
        try:
            return bool(poller.poll(millis(timeout)))
        finally:
            # Its owner may close it, and the number then be another file's.
            poller.unregister(also)

    def poll_write(self, timeout: float | None) -> bool:
        held = self._socket
        if self.closed:
            return True
        writing = select.poll()
        writing.register(held, select.POLLOUT)
        return bool(writing.poll(millis(timeout)))

    def shutdown(self) -> None:
        self._gone = self._why_gone()
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
        # Threads that were in the socket, or held the lock, are not in this process: nobody will leave it.
        self._socket.close()
        self._passing = threading.Lock()
        self._release()

    def _release(self) -> None:
        self._socket = _CLOSED
        queue, self._queue = self._queue, deque()
        self.backlog = 0
        with self._passing:
            for _, fds in queue:
                fdlib.close_all(fds)
        with contextlib.suppress(IndexError):
            while True:
                self._fds.popleft().close()

    def _end(self, why: str) -> WireClosed:
        self._gone = self._gone or why
        return self._closed(self._gone)

    def _unsent(self, error: OSError) -> WireClosed:
        # Frames that the peer sent before its end are still to be received, so this is not yet the end of recv.
        return self._closed(self._words(error))

    def _closed(self, why: str) -> WireClosed:
        return WireLost(why) if self._lost else WireClosed(why)

    def _why_gone(self) -> str:
        return self._gone or f"the connection with {self._peer} was closed on this side"

    def _words(self, error: OSError) -> str:
        if error.errno == errno.EBADF:
            return self._why_gone()
        self._lost = self._lost or error.errno in _SILENT
        words = _GONE.get(error.errno or 0)
        return f"{self._peer} {words}" if words else f"the connection with {self._peer} failed: {error}"
