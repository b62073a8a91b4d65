"""Real `ipcd run` processes, and a client of theirs on the native wire."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from ipcd_client.frame import preamble
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.stream import ClientStream
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tcp import split_address
from ipcd_client.wire.unix import UnixWire

LONG = 20.0  # seconds: far more than anything here takes
SETTINGS = Settings(accept_calls=False, accept_fds=True)
API = "/ipcd.v1.Node/"

R = TypeVar("R", bound=Message)


def eventually(condition: Callable[[], Any], what: str, limit: float = LONG) -> Any:
    """What `condition` gives, once that is true."""
    end = time.monotonic() + limit
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(0.02)


class Daemon:
    """One process. Its log is JSON, in a file."""

    def __init__(
        self,
        folder: Path,
        node: str,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        launcher: Sequence[str] = (),
        **keywords: Any,
    ) -> None:
        self.node = node
        self.socket = str(folder / node / "ipcd.sock")
        self._log = folder / f"{node}.{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *launcher,
                    *(sys.executable, "-m", "ipcd", "run", "--node", node, "--socket", self.socket),
                    *("--log-format", "json", "--log-level", "debug"),
                    *arguments,
                ],
                env={**os.environ, **environment},
                **{"stderr": log, **keywords},
            )

    def up(self) -> Daemon:
        """Waits until it is."""
        eventually(lambda: self.events("started") or self.process.poll() is not None, f"node {self.node} starts")
        assert self.process.poll() is None, self.text()
        return self

    @property
    def listen(self) -> str:
        """HOST:PORT."""
        return str(self.events("started")[0]["listen"])

    def text(self) -> str:
        """Everything that it has written."""
        return self._log.read_text()

    def events(self, event: str) -> list[dict[str, Any]]:
        """What it has logged of one kind."""
        lines = [json.loads(line) for line in self.text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def logged(self, event: str, words: str = "") -> dict[str, Any]:
        """Waits for a log line of one kind that has the words in it."""

        def found() -> dict[str, Any] | None:
            lines = [line for line in self.events(event) if words in json.dumps(line)]
            return lines[0] if lines else None

        try:
            result: dict[str, Any] = eventually(found, f"node {self.node} logs {event!r} {words!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it logged:\n{self.text()}") from None
        return result

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(LONG)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            return self.process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Daemons:
    """Those of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[Daemon] = []

    def start(
        self,
        node: str = "a",
        *arguments: str,
        discovery: bool = False,
        launcher: Sequence[str] = (),
        **environment: str,
    ) -> Daemon:
        """Starts one, and does not wait."""
        more = () if discovery else ("--no-discovery",)
        return self.add(Daemon(self.folder, node, (*arguments, *more), environment, launcher))

    def add(self, daemon: Daemon) -> Daemon:
        """One that was started otherwise."""
        self._all.append(daemon)
        return daemon

    def run(self, node: str = "a", *arguments: str, **keywords: Any) -> Daemon:
        """Starts one, and waits until it is up."""
        return self.start(node, *arguments, **keywords).up()

    def end(self) -> None:
        """Ends all that still run."""
        for daemon in self._all:
            daemon.stop()


@contextlib.contextmanager
def daemons() -> Iterator[Daemons]:
    """For one test. In a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder:
        all_of_them = Daemons(Path(folder))
        try:
            yield all_of_them
        finally:
            all_of_them.end()


class Client:
    """A process's connection to a daemon."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def call(self, method: str, request: Message, reply: type[R], timeout: float = LONG) -> R:
        """Calls a method that hands over no descriptors."""
        message, fds = await self.connection.call(API + method, request.SerializeToString(), timeout=timeout)
        assert not fds
        return reply.FromString(message)

    async def open(
        self, service: str, *, wait: bool = False, timeout: float = LONG, **target: Any
    ) -> tuple[node_pb2.OpenReply, socket.socket]:
        """An introduction: the reply, and the connected socket, dialed where the reply says so."""
        request = node_pb2.OpenRequest(target=node_pb2.ResolveRequest(service=service, **target), wait=wait)
        message, fds = await self.connection.call(API + "Open", request.SerializeToString(), timeout=timeout)
        reply = node_pb2.OpenReply.FromString(message)
        if fds:
            return reply, as_socket(fds[0])
        return reply, await dial(reply.address, reply.token)

    async def servers(self, service: str = "") -> list[node_pb2.Server]:
        """The catalog."""
        request = node_pb2.ListCatalogRequest(service=service)
        return list((await self.call("ListCatalog", request, node_pb2.ListCatalogReply)).servers)

    async def nodes(self) -> dict[str, node_pb2.NodeInfo]:
        """Other nodes by name; of two with one name, the linked one."""
        # Those that are linked come first.
        return {info.node: info for info in reversed(await self.every_node())}

    async def every_node(self) -> list[node_pb2.NodeInfo]:
        """All but the one that is asked."""
        reply = await self.call("ListNodes", node_pb2.ListNodesRequest(), node_pb2.ListNodesReply)
        return [info for info in reply.nodes if info.state != info.STATE_SELF]

    async def register(self, *services: str, name: str = "") -> Registered:
        """Registers a server."""
        stream = self.connection.stream(API + "Register")
        await stream.send(node_pb2.RegisterRequest(name=name, services=services).SerializeToString())
        reply = node_pb2.RegisterReply.FromString(await received(stream))
        return Registered(stream, reply.registered.server)


class Registered:
    """A server of the test's."""

    def __init__(self, stream: ClientStream, server: node_pb2.Server) -> None:
        self.stream = stream
        self.server = server

    async def granted(self) -> tuple[node_pb2.Grant, socket.socket]:
        """The next caller."""
        reply = node_pb2.RegisterReply.FromString(await received(self.stream))
        (fd,) = self.stream.take_fds(1)
        return reply.grant, as_socket(fd)


async def received(stream: ClientStream) -> bytes:
    """The next message, of which there must be one."""
    message = await stream.receive()
    assert message is not None
    return message


def as_socket(fd: Fd) -> socket.socket:
    """A non-blocking socket that owns the descriptor."""
    sock = socket.socket(fileno=fd.detach())
    sock.setblocking(False)
    return sock


async def dial(address: str, token: bytes) -> socket.socket:
    """A data connection to a node."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, split_address(address))
    await loop.sock_sendall(sock, preamble.pack(preamble.DATA, token))
    return sock


async def joined(one: socket.socket, other: socket.socket) -> bool:
    """Whether what goes in at one end comes out at the other, both ways."""
    loop = asyncio.get_running_loop()
    for sender, receiver, word in ((one, other, b"there"), (other, one, b"back")):
        await loop.sock_sendall(sender, word)
        if await loop.sock_recv(receiver, 100) != word:
            return False
    return True


@contextlib.asynccontextmanager
async def attached(daemon: Daemon) -> AsyncIterator[Client]:
    """A client, for a while."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(daemon.socket)
    connection = Connection(UnixWire(sock, peer=f"node {daemon.node}", accept_fds=True), SETTINGS, dialer=True)
    try:
        await connection.handshake()
        yield Client(connection)
    finally:
        await connection.close()


def run(main: Callable[[], Any]) -> None:
    """Runs a coroutine function, for at most a long time."""

    async def limited() -> None:
        async with asyncio.timeout(2 * LONG):
            await main()

    asyncio.run(limited())


async def until(condition: Callable[[], Any], what: str) -> Any:
    """What the coroutine function gives, once that is true."""
    try:
        async with asyncio.timeout(LONG):
            for _ in itertools.count():
                result = await condition()
                if result:
                    return result
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {LONG:g} s: {what}") from None
