"""Connecting without holding up the loop."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import Any

from ipcd_client.errors import WireError, WireTimeout
from ipcd_client.wire.tcp import split_address, tune
from ipcd_client.wire.unix import refused


async def tcp(address: str, timeout: float, first: bytes = b"") -> socket.socket:
    """A connection with whoever listens at HOST:PORT, to which `first` has been sent, in at most `timeout` seconds.

    Raises:
        WireError: with the OS's reason.
        WireTimeout: nothing answered in time.
    """
    loop = asyncio.get_running_loop()
    host, port = split_address(address)
    try:
        async with asyncio.timeout(timeout):
            family, place = await _resolve(host, port)
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await loop.sock_connect(sock, place)
                tune(sock)
                await loop.sock_sendall(sock, first)
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        raise WireTimeout(f"{address} did not answer within {timeout:g} s") from None
    except OSError as error:
        # asyncio has words of its own for what the system says.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise WireError(f"cannot connect to {address}: {why}") from error
    return sock


async def _resolve(host: str, port: int) -> tuple[int, Any]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # In a thread of the loop's executor, as it may ask a server.
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return found[0][0], found[0][4]


def unix(path: str) -> socket.socket:
    """A connection with whoever listens on a socket file; a leading @ means the abstract namespace. It takes no time:
    where the listener's queue is full, that is an error at once.

    Raises:
        WireError: with the OS's reason.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
    except OSError as error:
        sock.close()
        raise refused(error) from error
    return sock
