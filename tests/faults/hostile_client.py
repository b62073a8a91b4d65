"""A program that means ill: python hostile_client.py ACT SOCKET [HOST:PORT] [SERVICE].

It does one of `ACTS` again and again to the daemon whose socket that is (and whose TCP port), until its standard input
ends. With SERVICE, it has itself introduced to a server of that, and does it there. It says "attacking" once it has
begun, and at the end what it was told, in a line of JSON: {"done": N, "told": {TEXT: N}}.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, preamble
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2, wire_pb2
from ipcd_client.wire.tcp import split_address
from ipcd_client.wire.unix import connect

API = "/ipcd.v1.Node/"
GIGABYTE = 1 << 30
# Seconds between two connections of acts that are not about connecting itself.
PAUSE = 0.001
# A request for either: a field of 1 KiB, the first of a message.
DATA = b"\x0a\x80\x08" + bytes(1024)


def encoded(*arguments: object, **keywords: object) -> bytes:
    return b"".join(map(bytes, codec.encode(*arguments, **keywords)))  # type: ignore[arg-type]


def hello() -> bytes:
    limits = wire_pb2.Hello(
        min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 20, max_streams=16, software="hostile"
    )
    return encoded(codec.HELLO, 0, limits.SerializeToString())


def opened(stream: int, method: str, message: bytes | None = None, *, end: bool = True) -> bytes:
    """A call, whose method gets the id 0."""
    flags = codec.WITH_NAME | (codec.END if end else 0) | (codec.WITH_MESSAGE if message is not None else 0)
    return encoded(codec.OPEN, stream, codec.pack_name(method) + (message or b""), flags, 0)


class Target:
    """Whom it is done to."""

    def __init__(self, path: str, listen: str, service: str) -> None:
        self.path = path
        self.listen = listen
        self.service = service
        self.told: Counter[str] = Counter()
        self.done = 0
        self._daemon = attach.connect(path) if service else None

    def connected(self) -> socket.socket:
        """A connection with the daemon, or with a server of the service."""
        if self._daemon is None:
            return connect(self.path, 5)
        target = node_pb2.ResolveRequest(service=self.service, transport=node_pb2.TRANSPORT_UNIX)
        while True:
            _, fds = attach.call(
                self._daemon, "Open", node_pb2.OpenRequest(target=target), node_pb2.OpenReply, time.monotonic() + 5
            )
            return socket.socket(fileno=fds[0].detach())

    def dialed(self) -> socket.socket:
        return socket.create_connection(split_address(self.listen), 5)

    def method(self) -> tuple[str, bytes]:
        """Something to call that answers much, and its request."""
        if not self.service:
            return f"{API}ListCatalog", b""
        # Of the tests' service, and of the one that `ipcd demo` serves.
        return (f"/{self.service}/{'Digest' if self.service.endswith('.Lab') else 'UnaryEcho'}", DATA)

    def tell(self, text: str) -> None:
        if not self.told[text[:200]]:
            print(text[:200], flush=True)
        self.told[text[:200]] += 1


class Peer:
    """A connection without manners."""

    def __init__(self, target: Target, sock: socket.socket, greeting: bytes = b"") -> None:
        self.target = target
        self.sock = sock
        self.alive = True
        self._decoder = codec.Decoder(1 << 22, codec.ALLOWED_ON_SHM)
        sock.setblocking(False)
        if greeting:
            self.send(greeting)

    def send(self, data: bytes) -> bool:
        """False if it is not taken now."""
        if not self.alive:
            return False
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            return False
        except OSError:
            self.read()
            self.alive = False
            return False
        if sent < len(data):
            # The rest has to follow.
            with contextlib.suppress(OSError):
                self.sock.setblocking(True)
                self.sock.settimeout(1)
                self.sock.sendall(data[sent:])
            self.sock.setblocking(False)
        return True

    def read(self) -> None:
        """Takes in what there is, and keeps the words of refusals."""
        try:
            while data := self.sock.recv(1 << 16):
                self._decoder.feed(data)
                while (frame := self._decoder.next()) is not None:
                    self._judge(frame)
            self.alive = False
        except BlockingIOError:
            pass
        except (OSError, ProtocolError):
            self.alive = False

    def _judge(self, frame: codec.Frame) -> None:
        if frame.type in (codec.GOAWAY, codec.RESET):
            self.target.tell(bytes(frame.payload).decode("utf-8", "replace"))
        elif frame.type == codec.STATUS and frame.flags & codec.WITH_DETAILS:
            self.target.tell(bytes(frame.payload)[4:].decode("utf-8", "replace"))

    def close(self) -> None:
        self.sock.close()
        self.alive = False


def each(target: Target, make: Callable[[], Peer], count: int) -> Iterator[list[Peer]]:
    """Keeps so many connections, making those anew that were ended."""
    peers: list[Peer] = []
    while True:
        for peer in [peer for peer in peers if not peer.alive]:
            peer.close()
            peers.remove(peer)
        if len(peers) < count:
            try:
                peers.append(make())
            except OSError as error:
                target.tell(f"not connected: {errno.errorcode.get(error.errno or 0, error)}")
                time.sleep(PAUSE)
            except Exception as error:  # a refusal of whatever kind
                target.tell(str(error))
                time.sleep(PAUSE)
        yield peers


def connections(target: Target) -> Iterator[None]:
    """As many as there may be, and then ever again one more; each tenth is closed at once."""
    held: deque[Peer] = deque()
    while True:
        try:
            peer = Peer(target, target.connected(), hello())
        except OSError as error:
            target.tell(f"not connected: {errno.errorcode.get(error.errno or 0, error)}")
            yield
            continue
        except Exception as error:  # a refusal of whatever kind
            target.tell(str(error))
            yield
            continue
        target.done += 1
        held.append(peer)
        if target.done % 10 == 0:
            held.pop().close()
        if len(held) > 600:
            old = held.popleft()
            old.read()
            old.close()
        yield


def reconnects(target: Target) -> Iterator[None]:
    """Comes and goes, as fast as it can."""
    while True:
        try:
            sock = target.connected()
        except Exception as error:  # a refusal of whatever kind
            target.tell(str(error))
        else:
            target.done += 1
            if target.done % 64 == 0:
                peer = Peer(target, sock)
                select.select([sock], [], [], 0.05)
                peer.read()
            sock.close()
        yield


def half_open(target: Target) -> Iterator[None]:
    """Connections to the TCP port that say nothing, or half of it."""
    held: deque[Peer] = deque()
    while True:
        with contextlib.suppress(OSError):
            held.append(Peer(target, target.dialed(), preamble.pack(preamble.PEER)[:11] if target.done % 2 else b""))
            target.done += 1
        if len(held) > 300:
            old = held.popleft()
            old.read()
            old.close()
        yield


def slow_reader(target: Target) -> Iterator[None]:
    """Asks and asks, and does not read the answers."""
    stream = 1
    method, request = target.method()
    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 32):
        for peer in peers:
            if peer.send(b"".join(opened(stream + 2 * index, method, request) for index in range(16))):
                target.done += 16
            elif not peer.alive:
                target.tell("ended")
        stream += 32
        time.sleep(PAUSE)
        yield


def slow_writer(target: Target) -> Iterator[None]:
    """Messages that begin and do not end, a byte or a piece at a time."""
    piece = bytes(32 << 10)
    numbers: dict[Peer, int] = {}
    method, _ = target.method()
    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 64):
        for index, peer in enumerate(peers):
            number = numbers.setdefault(peer, 0)
            numbers[peer] += 1
            if index % 2:
                # One frame, byte by byte.
                frame = opened(1, method, bytes(1000))
                peer.send(frame[number : number + 1])
            else:
                stream = 2 * number + 1
                peer.send(
                    opened(stream, method, end=False)
                    + encoded(codec.MESSAGE, stream, piece, codec.FIRST | codec.MORE, 1 << 20)
                    + encoded(codec.MESSAGE, stream, piece, codec.MORE)
                )
            peer.read()
            target.done += 1
        numbers = {peer: numbers[peer] for peer in peers}
        time.sleep(PAUSE)
        yield


def descriptors(target: Target) -> Iterator[None]:
    """Has descriptors sent that it does not take: as a caller, and as a server."""
    name = f"hostile.v1.Descriptors{os.getpid()}"
    call = node_pb2.OpenRequest(
        target=node_pb2.ResolveRequest(service=name, transport=node_pb2.TRANSPORT_UNIX)
    ).SerializeToString()
    register = node_pb2.RegisterRequest(services=[name]).SerializeToString()
    greeting = hello() + opened(1, f"{API}Register", register, end=False)
    servers = each(target, lambda: Peer(target, target.connected(), greeting), 8)
    stream = 1
    for callers in each(target, lambda: Peer(target, target.connected(), hello()), 16):
        next(servers)
        for index, peer in enumerate(callers):
            if peer.send(b"".join(opened(stream + 2 * index, f"{API}Open", call) for index in range(8))):
                target.done += 8
            if index == 0:
                # One reads, to hear what it is told.
                peer.read()
        stream += 16
        time.sleep(PAUSE)
        yield


def streams(target: Target) -> Iterator[None]:
    """Calls that last: watches, waits, and requests that never come."""
    wait = node_pb2.OpenRequest(target=node_pb2.ResolveRequest(service="no.Such"), wait=True).SerializeToString()
    kinds = [
        (f"{API}WatchCatalog", b"", True),
        (f"{API}WatchChanges", b"", True),
        (f"{API}Open", wait, True),
        (f"{API}Status", None, False),
    ]
    if target.service:
        kinds = [(target.method()[0], None, False)]
    stream = 1
    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 16):
        for peer in peers:
            for method, message, end in kinds:
                target.done += peer.send(opened(stream, method, message, end=end))
                stream += 2
            peer.read()
        time.sleep(PAUSE)
        yield


def catalog(target: Target) -> Iterator[None]:
    """Servers with as many services as can be, which change all the time."""
    names: dict[Peer, int] = {}

    def request(number: int) -> bytes:
        services = [f"hostile.v1.{'x' * 200}{number}.S{index}" for index in range(256)]
        return node_pb2.RegisterRequest(services=services).SerializeToString()

    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 16):
        for peer in peers:
            number = names[peer] = names.get(peer, -1) + 1
            stream = 2 * (number % 80) + 1
            if number < 80:
                data = opened(stream, f"{API}Register", end=False)
            else:
                data = b""
            payload = request(number)
            half = len(payload) // 2 + 1
            data += encoded(codec.MESSAGE, stream, payload[:half], codec.FIRST | codec.MORE, len(payload))
            data += encoded(codec.MESSAGE, stream, payload[half:])
            target.done += peer.send(data)
            peer.read()
        names = {peer: names[peer] for peer in peers}
        time.sleep(PAUSE)
        yield


def huge(target: Target) -> Iterator[None]:
    """Claims of messages of a gigabyte: of a frame, and of one in pieces."""
    method, _ = target.method()
    rounds: dict[Peer, int] = {}
    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 8):
        for peer in peers:
            number = rounds[peer] = rounds.get(peer, -1) + 1
            if not number:
                peer.send(
                    opened(1, method, end=False)
                    + encoded(codec.MESSAGE, 1, bytes(8192), codec.FIRST | codec.MORE, GIGABYTE)
                )
            elif number < 8:
                peer.send(encoded(codec.MESSAGE, 1, bytes(8192), codec.MORE))
            elif number == 8:
                peer.send(codec.HEADER.pack(GIGABYTE, 1, codec.OPEN, 0, 0, 0) + bytes(1024))
            peer.read()
            target.done += 1
        rounds = {peer: rounds[peer] for peer in peers}
        time.sleep(PAUSE)
        yield


def garbage(target: Target) -> Iterator[None]:
    """Bytes that mean nothing, from the first on, or after a proper beginning."""
    chance = random.Random(os.getpid())

    def make() -> Peer:
        if target.listen and not target.service and chance.random() < 0.3:
            return Peer(target, target.dialed(), preamble.pack(preamble.PEER) if chance.random() < 0.5 else b"")
        return Peer(target, target.connected(), hello() if chance.random() < 0.7 else b"")

    for peers in each(target, make, 16):
        for peer in peers:
            peer.send(chance.randbytes(chance.randrange(1, 4096)))
            peer.read()
            target.done += 1
        time.sleep(PAUSE)
        yield


def requests(target: Target) -> Iterator[None]:
    """Small calls as fast as can be, whose answers it reads."""
    method, request = target.method()
    if not target.service:
        method = f"{API}Status"
    stream = 1
    for peers in each(target, lambda: Peer(target, target.connected(), hello()), 16):
        for peer in peers:
            if peer.send(b"".join(opened(stream + 2 * index, method, request) for index in range(32))):
                target.done += 32
            peer.read()
        stream += 64
        writable = [peer.sock for peer in peers if peer.alive]
        # Waits only while nobody takes anything.
        select.select([], writable, [], 0.05)
        yield


def busy(target: Target) -> Iterator[None]:
    """Nothing to anybody: for comparison, what it costs that a CPU is busy."""
    while True:
        target.done += 1
        yield


ACTS: dict[str, Callable[[Target], Iterator[None]]] = {
    "connections": connections,
    "reconnects": reconnects,
    "half-open": half_open,
    "slow-reader": slow_reader,
    "slow-writer": slow_writer,
    "descriptors": descriptors,
    "streams": streams,
    "catalog": catalog,
    "huge": huge,
    "garbage": garbage,
    "requests": requests,
    "busy": busy,
}


def main() -> None:
    act, path, listen, service = (*sys.argv[1:], "", "")[:4]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    target = Target(path, listen, service)
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    began = False
    for _ in ACTS[act](target):
        if not began:
            began = True
            print("attacking", flush=True)
        if ended.poll(0):
            break
    print(json.dumps({"done": target.done, "told": dict(target.told.most_common(30))}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(DecodeError):
        main()
