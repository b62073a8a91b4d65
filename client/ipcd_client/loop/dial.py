"""Connecting without holding up the loop."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import Any

from ipcd_client.errors import WireError, WireTimeout
from ipcd_client.wire.tcp import join_address, split_address, tune
from ipcd_client.wire.unix import QUEUE_FULL, refused


async def tcp(address: str, timeout: float, first: bytes = b"") -> socket.socket:
    """A connection with whoever listens at HOST:PORT, to which `first` has been sent, in at most `timeout` seconds. Of
    a name each address is tried in turn, with its share of the time that is left.

    Raises:
        WireError: with the OS's reason; of a name that stands for several addresses, with that of each.
        WireTimeout: nothing answered in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    try:
        async with asyncio.timeout_at(end):
            places = await _places(address)
    except TimeoutError:
        raise WireTimeout(f"{address} could not be looked up within {timeout:g} s") from None
    failures: list[WireError] = []
    for left, (family, place) in zip(range(len(places), 0, -1), places, strict=True):
        where = address if len(places) == 1 else join_address(place[0], place[1])
        try:
            return await _connected(family, place, where, (end - loop.time()) / left, first)
        except WireError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    kind = WireTimeout if all(isinstance(failure, WireTimeout) for failure in failures) else WireError
    raise kind(f"none of the addresses of {address} can be reached: {'; '.join(map(str, failures))}") from failures[-1]


async def _connected(family: int, place: Any, where: str, timeout: float, first: bytes) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(sock, place)
                tune(sock)
                await loop.sock_sendall(sock, first)
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise WireTimeout(f"{where} did not answer within {timeout:.3g} s") from None
    except OSError as error:
        raise WireError(f"cannot connect to {where}: {_words(error)}") from error
    return sock


def is_numeric(address: str) -> bool:
    """Whether HOST:PORT has an IP address for its host, and so needs no looking up."""
    try:
        ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return False
    return True


async def resolve(address: str) -> tuple[str, ...]:
    """The addresses, as IP:PORT, that NAME:PORT stands for, the system's preference first.

    Raises:
        WireError: with the resolver's reason.
    """
    return tuple(join_address(place[0], place[1]) for _, place in await _places(address))


async def _places(address: str) -> list[tuple[int, Any]]:
    host, port = split_address(address)
    try:
        if is_numeric(address):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        else:
            # In a thread of the loop's executor, as it may ask a server.
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise WireError(f"cannot look up {host}: {_words(error)}") from error
    except UnicodeError as error:
        raise WireError(f"cannot look up {host}: it is no host name") from error
    return list(dict.fromkeys((int(family), place) for family, _, _, _, place in found))


def _words(error: OSError) -> object:
    # asyncio has words of its own for what the system says.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error


async def unix(path: str, timeout: float) -> socket.socket:
    """A connection with whoever listens on a socket file; a leading @ means the abstract namespace. It takes no time
    but where the listener's queue is full, and then at most `timeout` seconds.

    Raises:
        WireError: with the OS's reason.
        WireTimeout: the listener's queue stayed full.
    """
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        sock.connect("\0" + path[1:] if path.startswith("@") else path)
                    except BlockingIOError:
                        await asyncio.sleep(QUEUE_FULL)
                    else:
                        return sock
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise WireTimeout(f"{path} did not accept within {timeout:g} s") from None
    except OSError as error:
        raise refused(error) from error
