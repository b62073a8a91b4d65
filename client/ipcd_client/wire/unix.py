"""The `unix` wire: a connected UNIX stream socket, such as one end of a granted socketpair."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final, NamedTuple

from ipcd_client.errors import WireError, WireTimeout
from ipcd_client.wire.sockets import SocketWire

_UCRED: Final = struct.Struct("iII")


class Credentials(NamedTuple):
    """Who opened the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """SO_PEERCRED: whoever connected (or made the pair), not necessarily whoever writes now."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


class UnixWire(SocketWire):
    """See the module."""

    kind = "unix"


def connect(path: str, timeout: float) -> socket.socket:
    """Connects to a socket file, in at most `timeout` seconds. A leading @ means the abstract namespace.

    Raises:
        WireError: with the OS's reason.
        WireTimeout: the listener's queue stayed full.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
    except TimeoutError:
        sock.close()
        raise WireTimeout(f"{path} did not accept within {timeout:g} s") from None
    except OSError as error:
        sock.close()
        raise refused(error) from error
    return sock


def refused(error: OSError) -> WireError:
    """Why a socket file did not let us in, in words."""
    if error.errno == errno.EAGAIN:
        return WireError("its queue of connections is full")
    return WireError(os.strerror(error.errno) if error.errno else str(error))
