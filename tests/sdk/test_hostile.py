"""A caller that was introduced and then breaks the protocol: its connection ends with a name, others notice nothing."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import grpc
import ipcd_client
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.frame import codec, preamble
from ipcd_client.frame.settings import GOAWAY_TIMEOUT, GOAWAY_VIOLATION
from ipcd_client.node import attach
from ipcd_client.node.introduction import TRANSPORTS
from ipcd_client.pb.ipcd.v1 import node_pb2, wire_pb2
from ipcd_client.wire import tcp
from sdk.processes import LONG, Processes, eventually

HELLO = b"".join(
    bytes(buffer)
    for buffer in codec.encode(
        codec.HELLO,
        0,
        wire_pb2.Hello(
            min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 16, max_streams=1
        ).SerializeToString(),
    )
)
HOSTILE = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10, "unknown-type"),
    "an oversized length": (HELLO + codec.HEADER.pack(0xFFFF_FFFF, 1, codec.OPEN, 0, 0, 0), "oversized-frame"),
    "a call before the hello": (codec.HEADER.pack(0, 1, codec.OPEN, 0, codec.END, 0), "no-hello"),
    "a message without a call": (HELLO + codec.HEADER.pack(0, 7, codec.MESSAGE, 0, 0, 0), "unopened-stream"),
    "an unknown flag": (HELLO + codec.HEADER.pack(0, 1, codec.PING, 0, 0x8000, 0), "unknown-flags"),
    "descriptors where none may be": (
        HELLO + codec.HEADER.pack(8, 0, codec.PING, 3, 0, 0) + bytes(8),
        "unexpected-fds",
    ),
    "a method id never named": (HELLO + codec.HEADER.pack(0, 1, codec.OPEN, 0, codec.END, 9), "unknown-method-id"),
}


@pytest.fixture
def served(world: Processes, caplog: pytest.LogCaptureFixture) -> Iterator[ipcd_client.Channel]:
    """A good caller of a server in this process, whose log can be read."""
    caplog.set_level(logging.WARNING, "ipcd_client")
    world.daemon("a")
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("a"))
    server.start()
    with ipcd_client.channel(node=world.socket("a")) as channel:
        assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"before", timeout=LONG) == b"before"
        yield channel
    server.stop(None)


@pytest.fixture(params=["shm", "unix", "tcp"])
def introduced(request: pytest.FixtureRequest, world: Processes, served: object) -> Iterator[socket.socket]:
    """A bare socket, connected with the server's process."""
    transport = TRANSPORTS[request.param]
    daemon = attach.connect(world.socket("a"))
    target = node_pb2.ResolveRequest(service=SERVICE, transport=transport)
    reply, fds = attach.call(daemon, "Open", node_pb2.OpenRequest(target=target), node_pb2.OpenReply, None)
    if fds:
        sock = socket.socket(fileno=fds[0].detach())
    else:
        sock = tcp.connect(reply.address, LONG)
        sock.sendall(preamble.pack(preamble.DATA, reply.token))
    sock.settimeout(LONG)
    with sock:
        yield sock
    daemon.close()


def frames_until_end(sock: socket.socket) -> list[codec.Frame]:
    decoder, frames = codec.Decoder(1 << 20, codec.ALLOWED_ON_SHM), []
    while True:
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return frames
        if not data:
            return frames
        decoder.feed(data)
        while (frame := decoder.next()) is not None:
            frames.append(frame)


def good_goes_on(channel: grpc.Channel) -> None:
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"after", timeout=LONG) == b"after"


@pytest.mark.parametrize("kind", HOSTILE)
def test_violation(
    served: ipcd_client.Channel, introduced: socket.socket, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    attack, name = HOSTILE[kind]
    introduced.sendall(attack)
    frames = frames_until_end(introduced)
    assert frames[0].type == codec.HELLO
    assert (frames[-1].type, frames[-1].aux) == (codec.GOAWAY, GOAWAY_VIOLATION)
    assert frames[-1].payload.decode().startswith(name)
    good_goes_on(served)
    eventually(lambda: any(name in record.getMessage() for record in caplog.records), "the reason is logged")


@pytest.mark.parametrize("sent", [b"", HELLO[:7], HELLO[:-1]], ids=["silence", "half a header", "half a frame"])
def test_no_hello_in_time(
    served: ipcd_client.Channel, introduced: socket.socket, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    introduced.sendall(sent)
    good_goes_on(served)
    frames = frames_until_end(introduced)
    assert (frames[-1].type, frames[-1].aux) == (codec.GOAWAY, GOAWAY_TIMEOUT)
    good_goes_on(served)
    eventually(lambda: any("no-hello" in record.getMessage() for record in caplog.records), "the reason is logged")


def test_gone_in_the_middle_of_a_frame(served: ipcd_client.Channel, introduced: socket.socket) -> None:
    introduced.sendall(HELLO + codec.HEADER.pack(1000, 1, codec.OPEN, 0, codec.END, 0) + b"half")
    # A reset, not a farewell.
    introduced.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    introduced.close()
    good_goes_on(served)


def test_hello_and_then_silence_is_no_crime(served: ipcd_client.Channel, introduced: socket.socket) -> None:
    introduced.sendall(HELLO + codec.HEADER.pack(8, 0, codec.PING, 0, 0, 0) + b"12345678")
    got = b""
    while not got.endswith(b"12345678"):
        got += introduced.recv(1 << 16)
    good_goes_on(served)
