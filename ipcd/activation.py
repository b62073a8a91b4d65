"""Sockets that a service manager opened beforehand and passes at the start: the protocol of sd_listen_fds(3).

They stay open over a restart of the daemon: whoever connects meanwhile waits in the queue instead of being refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipcd_client.errors import ConfigError

# The first descriptor that is passed: SD_LISTEN_FDS_START.
FIRST: Final = 3
# More would be a mistake, or an environment that somebody else has made.
_MOST: Final = 16
ATTACH: Final = "attach"
LISTEN: Final = "listen"
_FAMILIES: Final[Mapping[str, tuple[tuple[socket.AddressFamily, ...], str]]] = {
    ATTACH: ((socket.AF_UNIX,), "a UNIX socket"),
    LISTEN: ((socket.AF_INET, socket.AF_INET6), "a TCP socket"),
}


@dataclass(frozen=True, slots=True)
class Passed:
    """Listening sockets, for the node to own. None: the node opens its own."""

    attach: socket.socket | None = None
    listen: socket.socket | None = None

    @property
    def path(self) -> str:
        """Where processes attach; empty if the node opens that itself."""
        return str(self.attach.getsockname()) if self.attach else ""

    def close(self) -> None:
        """For a start that fails. The service manager has its own copies."""
        for sock in (self.attach, self.listen):
            if sock is not None:
                sock.close()


def passed(environ: MutableMapping[str, str] | None = None, first: int = FIRST) -> Passed:
    """What was passed to this process, by the names that FileDescriptorName= gives. The variables are removed, so that
    no process that is started from here takes them for its own. `environ`: os.environ if None.

    Raises:
        ConfigError: a socket is none that the daemon can use, and why. All of them are closed.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if not count or pid != str(os.getpid()):
        return Passed()
    if not (count.isascii() and count.isdecimal()) or int(count) > _MOST:
        raise ConfigError(f"LISTEN_FDS={count!r} is not a number of sockets up to {_MOST}")
    sockets: dict[str, socket.socket] = {}
    descriptors = range(first, first + int(count))
    try:
        for fd, name in zip(descriptors, _names(names, int(count)), strict=True):
            if name in sockets:
                raise ConfigError(f"two passed sockets are called {name!r}; there can be one of each")
            sockets[name] = _checked(fd, name)
    except BaseException:
        for sock in sockets.values():
            sock.detach()
        for fd in descriptors:
            with suppress(OSError):
                os.close(fd)
        raise
    return Passed(sockets.get(ATTACH), sockets.get(LISTEN))


def same_path(one: str, other: str) -> bool:
    """Whether two paths lead to one socket file."""
    return Path(one).resolve() == Path(other).resolve()


def _names(names: str, count: int) -> list[str]:
    given = names.split(":") if names else []
    if len(given) != count:
        raise ConfigError(f"LISTEN_FDNAMES={names!r} does not name the {count} passed sockets: set FileDescriptorName=")
    return given


def _checked(fd: int, name: str) -> socket.socket:
    if name not in _FAMILIES:
        raise ConfigError(f"a passed socket is called {name!r}: FileDescriptorName= must be {ATTACH} or {LISTEN}")
    families, kind = _FAMILIES[name]
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"the passed socket {name!r} (descriptor {fd}) is none: {error.strerror}") from error
    try:
        if sock.family not in families or sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"the passed socket {name!r} is not {kind} for streams: use ListenStream=")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"the passed socket {name!r} does not listen: it must not be one with Accept=yes")
        place = sock.getsockname()
        if name == ATTACH and not (isinstance(place, str) and place):
            raise ConfigError(f"the passed socket {name!r} has no path: processes find the daemon by it")
    except BaseException:
        sock.detach()  # closed with the others
        raise
    sock.set_inheritable(False)
    return sock
