"""How to make pairs of wires of each kind, for the contract suite."""

from __future__ import annotations

import abc
import functools
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from ipcd_client.access import identity as identities
from ipcd_client.certs.identity import Credentials
from ipcd_client.testing import certificates
from ipcd_client.wire import memory, tls
from ipcd_client.wire.base import Wire
from ipcd_client.wire.shm import ShmWire
from ipcd_client.wire.tcp import TcpWire, tune
from ipcd_client.wire.tls import TlsWire
from ipcd_client.wire.unix import UnixWire


class WireFactory(abc.ABC):
    """One kind of wire."""

    kind: ClassVar[str]
    # Descriptors can travel.
    carries_fds: ClassVar[bool] = False
    # Which of those of `wire.base` its wires have: "glance", "drained", "quick".
    shortcuts: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:
        """Two connected ends."""

    def __repr__(self) -> str:
        return self.kind


class CrossingFactory(WireFactory):
    """A kind whose ends can be in two processes."""

    @abc.abstractmethod
    def spawn(self, behaviour: str) -> AbstractContextManager[tuple[Wire, subprocess.Popen[bytes]]]:
        """One end here, the other in a process that does one of the behaviours of `wire_child`, for as long as the
        context lasts. Its standard input is a pipe, which ends with the context."""


class SocketFactory(CrossingFactory):
    """A kind that stands on a stream socket."""

    shortcuts = frozenset({"glance", "drained"})
    wire: ClassVar[Callable[..., Wire]]

    @abc.abstractmethod
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets."""

    def over(self, sock: socket.socket, *, accept_fds: bool = False) -> Wire:
        """The wire that owns the socket."""
        return self.wire(sock, peer="the other end", accept_fds=accept_fds)

    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:
        one, other = self.sockets()
        return self.over(one, accept_fds=accept_fds), self.over(other, accept_fds=accept_fds)

    @contextmanager
    def spawn(self, behaviour: str) -> Iterator[tuple[Wire, subprocess.Popen[bytes]]]:
        ours, theirs = self.sockets()
        wire = self.over(ours)
        with theirs:
            command = [
                sys.executable,
                "-m",
                "ipcd_client.testing.wire_child",
                self.kind,
                str(theirs.fileno()),
                behaviour,
            ]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE)
        with process:
            try:
                yield wire, process
            finally:
                wire.abort()
                process.kill()


class MemoryFactory(WireFactory):
    """Both ends in this process."""

    kind = "memory"
    carries_fds = True

    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:  # noqa: ARG002 - it always does
        return memory.pair()


class UnixFactory(SocketFactory):
    """A socketpair, as the daemon grants it."""

    kind = "unix"
    carries_fds = True
    wire = UnixWire

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()


class TcpFactory(SocketFactory):
    """A connection over the loopback interface."""

    kind = "tcp"
    wire = TcpWire

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        tune(one)
        tune(other)
        return one, other


class TlsFactory(TcpFactory):
    """The same with TLS, between processes of two nodes. Their wires call themselves tcp."""

    def __repr__(self) -> str:
        return "tls"

    def unmet(self) -> tuple[TlsWire, TlsWire]:
        """Before the handshake: the caller's end, and the server's."""
        ours, theirs = self.sockets()
        return tls_end(ours, "a", "b", server_side=False), tls_end(theirs, "b", "a", server_side=True)

    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:  # noqa: ARG002 - it takes none
        one, other = self.unmet()
        one.send(())
        while not (one.identity and other.identity):
            assert other.recv() is None
            assert one.recv() is None
        return one, other


@functools.cache
def _credentials(node: str) -> Credentials:
    return certificates.authority().of_process(node, 1000)


def tls_end(sock: socket.socket, node: str, other: str, *, server_side: bool) -> TlsWire:
    """An end on `node` that expects one on `other`."""
    own = _credentials(node)
    context = tls.context(own.chain, own.key, own.authorities, server_side=server_side)
    expected = identities.of_uid(certificates.CLUSTER, other, 1000)
    return TlsWire(sock, peer="the other end", context=context, server_side=server_side, expected=expected)


def agree(one: Wire, other: Wire) -> None:
    """Lets both ends take part until each sends through shared memory."""
    while not (one.agreed and other.agreed):
        for wire in (one, other):
            assert wire.recv() is None
    assert (one.kind, other.kind) == ("shm", "shm"), f"{one.why_not} {other.why_not}"


class ShmFactory(SocketFactory):
    """Shared memory, agreed on over a socketpair."""

    kind = "shm"
    shortcuts = SocketFactory.shortcuts | {"quick"}

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def over(self, sock: socket.socket, *, accept_fds: bool = False) -> Wire:  # noqa: ARG002 - it takes none
        return ShmWire(sock, peer="the other end")

    def pair(self, *, accept_fds: bool = False) -> tuple[Wire, Wire]:
        one, other = super().pair(accept_fds=accept_fds)
        agree(one, other)
        return one, other


FACTORIES: tuple[WireFactory, ...] = (MemoryFactory(), UnixFactory(), TcpFactory(), TlsFactory(), ShmFactory())
CROSSING: tuple[CrossingFactory, ...] = (UnixFactory(), TcpFactory(), ShmFactory())
SOCKETS: tuple[SocketFactory, ...] = (UnixFactory(), TcpFactory(), ShmFactory())
