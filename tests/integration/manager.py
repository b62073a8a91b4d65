"""What systemd does for a daemon: opens its sockets, starts it with them, listens to what it tells, restarts it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integration.daemons import LONG, Daemon, Daemons

LAUNCHER = str(Path(__file__).with_name("activate.py"))


class Manager:
    """One node's sockets, which outlive its daemons."""

    def __init__(self, cluster: Daemons, node: str = "a") -> None:
        self.cluster = cluster
        self.node = node
        self.path = cluster.folder / node / "ipcd.sock"
        self.path.parent.mkdir(mode=0o700)
        self._sockets: dict[str, socket.socket] = {}
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(cluster.folder / f"{node}.notify"))
        self._told.settimeout(LONG)

    def open_attach(self, kind: int = socket.SOCK_STREAM) -> None:
        """The socket file."""
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(str(self.path))
        self.add("attach", sock)

    def open_listen(self) -> str:
        """A TCP socket: its HOST:PORT."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        self.add("listen", sock)
        host, port = sock.getsockname()
        return f"{host}:{port}"

    def add(self, name: str, sock: socket.socket, *, listening: bool = True) -> None:
        """Any other."""
        if listening and sock.type == socket.SOCK_STREAM:
            sock.listen()
        self._sockets[name] = sock

    def start(self, *arguments: str, watchdog: int = 0, **keywords: Any) -> Daemon:
        """Starts the daemon, and does not wait. `watchdog` in microseconds; 0: none."""
        environment = {"NOTIFY_SOCKET": self._told.getsockname()} | (
            {"WATCHDOG_USEC": str(watchdog)} if watchdog else {}
        )
        fds = [sock.fileno() for sock in self._sockets.values()]
        launcher = (sys.executable, LAUNCHER, ":".join(self._sockets), ",".join(map(str, fds)))
        daemon = Daemon(
            self.cluster.folder,
            self.node,
            (*arguments, "--no-discovery"),
            environment,
            launcher if fds else (),
            pass_fds=fds,
            **keywords,
        )
        return self.cluster.add(daemon)

    def hear(self, limit: float = LONG) -> str:
        """The next thing that the daemon tells.

        Raises:
            TimeoutError: nothing came within `limit` seconds.
        """
        self._told.settimeout(limit)
        return self._told.recv(1000).decode()

    def heard(self, word: str) -> None:
        """Waits until it tells this."""
        for _ in itertools.takewhile(lambda told: word not in told.splitlines(), iter(self.hear, None)):
            pass

    def close(self) -> None:
        """Closes the sockets."""
        self._told.close()
        for sock in self._sockets.values():
            sock.close()


@contextlib.contextmanager
def managing(cluster: Daemons, node: str = "a") -> Iterator[Manager]:
    """A manager, for a while."""
    with contextlib.closing(Manager(cluster, node)) as manager:
        yield manager
