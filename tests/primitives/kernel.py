"""The kernel's own mechanisms, tried: what the table in docs/primitives.md says of them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_IPC_CREAT: Final = 0o1000
_IPC_RMID: Final = 0
_IPC_NOWAIT: Final = 0o4000
_SIZE: Final = 16


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Fifo:
    """A named pipe."""

    @contextlib.contextmanager
    def _ends(self) -> Iterator[tuple[int, int]]:
        with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder:
            path = str(Path(folder, "fifo"))
            os.mkfifo(path)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                yield reader, writer
            finally:
                os.close(reader)
                os.close(writer)

    def connectionless(self) -> bool:
        """There is nothing to write to but what `open` gives, and that wants a reader."""
        with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder:
            path = str(Path(folder, "fifo"))
            os.mkfifo(path)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return False
            return True

    def reliable(self) -> bool:
        with self._ends() as (reader, writer):
            sent = b"".join(bytes([number]) * 1000 for number in range(50))
            os.write(writer, sent)
            return os.read(reader, 1 << 20) == sent

    def flow_control(self) -> bool:
        with self._ends() as (_, writer):
            try:
                for _ in range(10_000):
                    os.write(writer, bytes(1000))
            except BlockingIOError:
                return True
            return False

    def records(self) -> bool:
        with self._ends() as (reader, writer):
            os.write(writer, b"one")
            os.write(writer, b"two")
            return os.read(reader, 100) == b"one"

    def priorities(self) -> bool:
        """`write` takes none: what went in first comes out first."""
        with self._ends() as (reader, writer):
            os.write(writer, b"low")
            os.write(writer, b"high")
            return os.read(reader, 4) == b"high"


class SystemVQueue:
    """msgget, msgsnd, msgrcv."""

    class _Message(ctypes.Structure):
        _fields_ = (("type", ctypes.c_long), ("text", ctypes.c_char * _SIZE))

    @contextlib.contextmanager
    def _queue(self) -> Iterator[int]:
        queue = _checked(_LIBC.msgget(0, _IPC_CREAT | 0o600))
        try:
            yield queue
        finally:
            _checked(_LIBC.msgctl(queue, _IPC_RMID, None))

    def _send(self, queue: int, text: bytes, type_: int = 1) -> None:
        message = self._Message(type_, text)
        _checked(_LIBC.msgsnd(queue, ctypes.byref(message), len(text), _IPC_NOWAIT))

    def _receive(self, queue: int, type_: int = 0) -> bytes:
        message = self._Message()
        size = _checked(_LIBC.msgrcv(queue, ctypes.byref(message), _SIZE, type_, _IPC_NOWAIT))
        return bytes(message.text)[:size]

    def connectionless(self) -> bool:
        """What msgsnd is given is what msgget gave: a number that nobody has made is refused."""
        try:
            self._send(0x7FFF_FFF0, b"x")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def reliable(self) -> bool:
        with self._queue() as queue:
            texts = [b"%d" % number for number in range(50)]
            for text in texts:
                self._send(queue, text)
            return [self._receive(queue) for _ in texts] == texts

    def flow_control(self) -> bool:
        with self._queue() as queue:
            try:
                for _ in range(1_000_000):
                    self._send(queue, bytes(_SIZE))
            except BlockingIOError:
                return True
            return False

    def records(self) -> bool:
        with self._queue() as queue:
            self._send(queue, b"one")
            self._send(queue, b"two")
            return self._receive(queue) == b"one"

    def priorities(self) -> bool:
        """Of the types up to 9 the lowest first."""
        with self._queue() as queue:
            self._send(queue, b"later", 5)
            self._send(queue, b"first", 2)
            return self._receive(queue, -9) == b"first"


class PosixQueue:
    """mq_open, mq_send, mq_receive."""

    class _Attributes(ctypes.Structure):
        _fields_ = (
            ("flags", ctypes.c_long),
            ("most", ctypes.c_long),
            ("size", ctypes.c_long),
            ("rest", ctypes.c_long * 5),
        )

    def __init__(self) -> None:
        self._library = ctypes.CDLL("librt.so.1", use_errno=True)
        self._library.mq_receive.restype = ctypes.c_ssize_t

    @contextlib.contextmanager
    def _queue(self) -> Iterator[int]:
        name = f"/ipcd-t-{os.getpid()}".encode()
        attributes = self._Attributes(most=10, size=_SIZE)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK
        queue = _checked(self._library.mq_open(name, flags, 0o600, ctypes.byref(attributes)))
        try:
            yield queue
        finally:
            self._library.mq_unlink(name)
            self._library.mq_close(queue)

    def _send(self, queue: int, text: bytes, priority: int = 0) -> None:
        _checked(self._library.mq_send(queue, text, ctypes.c_size_t(len(text)), ctypes.c_uint(priority)))

    def _receive(self, queue: int) -> bytes:
        buffer = ctypes.create_string_buffer(_SIZE)
        size = _checked(self._library.mq_receive(queue, buffer, ctypes.c_size_t(_SIZE), None))
        return buffer.raw[:size]

    def connectionless(self) -> bool:
        """mq_send takes what mq_open gave, and nothing else."""
        try:
            self._send(0x7FFF, b"x")
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return False
        return True

    def reliable(self) -> bool:
        with self._queue() as queue:
            texts = [b"%d" % number for number in range(10)]
            for text in texts:
                self._send(queue, text)
            return [self._receive(queue) for _ in texts] == texts

    def flow_control(self) -> bool:
        with self._queue() as queue:
            try:
                for _ in range(100):
                    self._send(queue, b"x")
            except BlockingIOError:
                return True
            return False

    def records(self) -> bool:
        with self._queue() as queue:
            self._send(queue, b"one")
            self._send(queue, b"two")
            return self._receive(queue) == b"one"

    def priorities(self) -> bool:
        with self._queue() as queue:
            self._send(queue, b"low", 1)
            self._send(queue, b"high", 9)
            return self._receive(queue) == b"high"


class UnixStream:
    """A stream socket of the UNIX domain."""

    kind = socket.SOCK_STREAM

    @contextlib.contextmanager
    def _ends(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        one, other = socket.socketpair(socket.AF_UNIX, self.kind)
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            yield one, other

    def connectionless(self) -> bool:
        """`sendto` an address without `connect`."""
        with (
            tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder,
            socket.socket(socket.AF_UNIX, self.kind) as there,
            socket.socket(socket.AF_UNIX, self.kind) as here,
        ):
            path = str(Path(folder, "s"))
            there.bind(path)
            if self.kind == socket.SOCK_STREAM:
                there.listen()
            try:
                here.sendto(b"x", path)
            except OSError as error:
                if error.errno not in {errno.ENOTCONN, errno.EOPNOTSUPP}:
                    raise
                return False
            return there.recv(9) == b"x"

    def reliable(self) -> bool:
        with self._ends() as (one, other):
            texts = [b"%d" % number for number in range(10)]
            for text in texts:
                one.send(text)
            return b"".join(
                other.recv(1) if self.kind == socket.SOCK_STREAM else other.recv(9) for _ in texts
            ) == b"".join(texts)

    def flow_control(self) -> bool:
        with self._ends() as (one, _):
            try:
                for _ in range(100_000):
                    one.send(bytes(1000))
            except BlockingIOError:
                return True
            return False

    def records(self) -> bool:
        with self._ends() as (one, other):
            one.send(b"one")
            one.send(b"two")
            return other.recv(100) == b"one"

    def priorities(self) -> bool:
        """`send` takes none: what went in first comes out first."""
        with self._ends() as (one, other):
            one.send(b"low")
            one.send(b"high")
            return other.recv(4) == b"high"


class UnixDatagram(UnixStream):
    """A datagram socket of the UNIX domain."""

    kind = socket.SOCK_DGRAM
