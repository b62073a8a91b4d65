"""The `tcp` wire: the same frames over TCP, between hosts."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import termios
import time
from typing import ClassVar, Final

from ipcd_client.errors import ConfigError, WireError, WireTimeout
from ipcd_client.wire.sockets import SocketWire

# A peer whose host is gone is noticed by the kernel if nothing is under way: after 2 s of silence it asks each second,
# three times. A stopped process still has a kernel that answers.
KEEPALIVE_IDLE: Final = 2
KEEPALIVE_INTERVAL: Final = 1
KEEPALIVE_COUNT: Final = 3
# With data under way it retransmits instead, for a quarter of an hour (tcp_retries2). So we look ourselves: from this
# many tries on, the last of them at the earliest 6 s after the first (each waits twice as long, from 200 ms on).
# TCP_USER_TIMEOUT is no way out: it also ends the connection with a peer that is well and does not read for that long.
DEAD_AFTER: Final = 5
_TCP_INFO_SIZE: Final = 8
_RETRANSMITS: Final = 2  # struct tcp_info of linux/tcp.h: tcpi_retransmits, tcpi_probes; an answer sets them to 0
_PROBES: Final = 3
# Characters of an address: of a name (RFC 1035, 2.3.4), and of a port's digits.
_HOST_MOST: Final = 255
_PORT_MOST: Final = 5


class TcpWire(SocketWire):
    """See the module."""

    kind = "tcp"
    check_every: ClassVar[float] = 1.0

    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            if super().poll(self.check_every if left is None else min(left, self.check_every), write=write, also=also):
                return True
            if timeout == 0:
                return False
            self.check()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return self.closed

    def check(self) -> None:
        sock = self._socket  # see sockets._Owned
        if self.closed:
            return
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        if max(info[_RETRANSMITS], info[_PROBES]) >= DEAD_AFTER:
            self._lost = True
            self._end(f"{self.peer()} does not answer")
            self.shutdown()

    def settled(self) -> bool:
        # A socket that is closed while unread data is in it resets the connection, and what the peer's kernel has
        # not acknowledged by then is lost.
        sock = self._socket
        if self.closed:
            return True
        dead = select.poll()
        dead.register(sock, 0)  # errors and hang-ups are always told
        if dead.poll(0):
            return True
        unacknowledged = array.array("i", [0])
        fcntl.ioctl(sock, termios.TIOCOUTQ, unacknowledged)  # SIOCOUTQ, tcp(7)
        return unacknowledged[0] == 0


def tune(sock: socket.socket) -> None:
    """The options of every TCP connection of ours. They stay with the socket when it is passed on."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT or [V6]:PORT as host and port.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    # Both have a bound: it may be another node that tells it, and int() raises errors of its own for long texts.
    digits = port.isascii() and port.isdecimal() and len(port) <= _PORT_MOST
    if not colon or not digits or int(port) > 65535 or not 0 < len(host) <= _HOST_MOST:
        shown = repr(address if len(address) <= _HOST_MOST else f"{address[:_HOST_MOST]}...")
        raise ConfigError(f"{shown} is not HOST:PORT (an IPv6 address goes in brackets: [::1]:7319)")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Host and port as one word, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(address: str, timeout: float) -> socket.socket:
    """Connects to HOST:PORT in at most `timeout` seconds for each address of the host.

    Raises:
        WireError: with the OS's reason.
        WireTimeout: nothing answered.
    """
    try:
        sock = socket.create_connection(split_address(address), timeout)
    except TimeoutError:
        raise WireTimeout(f"{address} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise WireError(f"cannot connect to {address}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise WireError(f"cannot connect to {address}: its host is no host name") from error
    try:
        tune(sock)
    except OSError as error:
        sock.close()
        raise WireError(f"cannot set up the connection to {address}: {error.strerror or error}") from error
    return sock
