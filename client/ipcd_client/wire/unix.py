"""The `unix` wire: a connected UNIX stream socket, such as one end of a granted socketpair."""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
import time
from typing import Final, NamedTuple

from ipcd_client.errors import WireError, WireTimeout
from ipcd_client.wire.sockets import SocketWire

_UCRED: Final = struct.Struct("iII")
_SO_PEERPIDFD: Final = 77  # Linux 6.5, <asm-generic/socket.h>
# Seconds after which a listener whose queue is full is tried again. Nothing tells when it has room.
QUEUE_FULL: Final = 0.001


class Credentials(NamedTuple):
    """Who opened the other end, as the kernel says."""

    pid: int  # 0: of a PID namespace that this one does not see into
    uid: int
    gid: int
    pidfd_id: int = 0  # the inode of its pidfd, which no other process ever has; 0: the kernel does not tell


def credentials(sock: socket.socket) -> Credentials:
    """SO_PEERCRED: whoever connected (or made the pair), not necessarily whoever writes now."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(pid, uid, gid, _pidfd_id(sock))


def _pidfd_id(sock: socket.socket) -> int:
    if not _pidfds_differ():
        return 0
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return 0  # it has ended, or there is no descriptor left
    try:
        return os.fstat(pidfd).st_ino
    finally:
        os.close(pidfd)


@functools.cache
def _pidfds_differ() -> bool:
    """Before Linux 6.9 all pidfds have one inode, which they share with eventfds and their like."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        other = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            return os.fstat(pidfd).st_ino != os.fstat(other).st_ino
        finally:
            os.close(other)
    finally:
        os.close(pidfd)


class UnixWire(SocketWire):
    """See the module."""

    kind = "unix"


def connect(path: str, timeout: float) -> socket.socket:
    """Connects to a socket file, in at most `timeout` seconds. A leading @ means the abstract namespace.

    Raises:
        WireError: with the OS's reason.
        WireTimeout: the listener's queue stayed full.
    """
    deadline = time.monotonic() + timeout
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            while True:
                try:
                    sock.connect("\0" + path[1:] if path.startswith("@") else path)
                    break
                except BlockingIOError:
                    # The queue is full, as when a thousand come at once, or somebody floods it.
                    if time.monotonic() >= deadline:
                        raise WireTimeout(f"{path} did not accept within {timeout:g} s") from None
                    time.sleep(QUEUE_FULL)
            sock.setblocking(True)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise refused(error) from error
    return sock


def refused(error: OSError) -> WireError:
    """Why a socket file did not let us in, in words."""
    if error.errno == errno.EAGAIN:
        return WireError("its queue of connections is full")
    return WireError(os.strerror(error.errno) if error.errno else str(error))
