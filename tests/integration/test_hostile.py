"""Whoever does not speak the protocol loses its connection, with a named reason; nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from integration.daemons import LONG, Daemon, Daemons, attached, eventually, joined, run
from ipcd_client.frame import codec, preamble
from ipcd_client.wire.tcp import join_address, split_address

HELLO = b"".join(map(bytes, codec.encode(codec.HELLO, 0, b"\x08\x01\x10\x01\x18\x80\x80\x40\x20\x80\x20\x28\x10")))
OVERSIZED = struct.pack("<IIBBHI", 0xFFFFFFFF, 0, codec.HELLO, 0, 0, 0)
PEER = preamble.pack(preamble.PEER)
SILENT = b""

UNIX = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "unknown-type"),
    "oversized": (OVERSIZED, "oversized-frame"),
    "oversized later": (HELLO + struct.pack("<IIBBHI", 1 << 30, 1, codec.OPEN, 0, 0, 0), "oversized-frame"),
    "no hello": (b"".join(map(bytes, codec.encode(codec.PING, 0, b"12345678"))), "no-hello"),
    "descriptors": (HELLO + b"".join(map(bytes, codec.encode(codec.OPEN, 1, b"", fds=1))), "unexpected-fds"),
    "silent": (SILENT, "no-hello"),
}
TCP = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "bad-preamble"),
    "wrong version": (b"IPCD\x09" + bytes(19), "bad-preamble"),
    "wrong kind": (b"IPCD\x01\x09" + bytes(18), "bad-preamble"),
    "no token": (preamble.pack(preamble.DATA), "bad-token"),
    "silent": (SILENT, "no-preamble"),
    "half a preamble": (PEER[:11], "no-preamble"),
    "garbage as a node": (PEER + b"GET / HTTP/1.1\r\n\r\n", "unknown-type"),
    "oversized as a node": (PEER + OVERSIZED, "oversized-frame"),
    "silent as a node": (PEER, "no-link"),
    "no link as a node": (PEER + HELLO, "no-link"),
}


def ended(sock: socket.socket) -> bytes:
    """What the daemon says until it closes."""
    sock.settimeout(LONG)
    answer = b""
    try:
        while piece := sock.recv(1 << 16):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def others_are_served(daemon: Daemon) -> None:
    async def main() -> None:
        async with attached(daemon) as client:
            server = await client.register("x.X")
            _, ours = await client.open("x.X")
            _, theirs = await server.granted()
            with ours, theirs:
                assert await joined(ours, theirs)

    run(main)


def test_on_the_socket_file(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in UNIX]
        for sock, (data, _) in zip(socks, UNIX.values(), strict=True):
            sock.connect(daemon.socket)
            sock.sendall(data)
        others_are_served(daemon)
        for sock, (_, reason) in zip(socks, UNIX.values(), strict=True):
            assert reason.encode() in ended(sock)
    eventually(lambda: len(daemon.events("connection ended")) >= len(UNIX), "each is logged")
    lines = daemon.events("connection ended")
    assert sorted(line["reason"].partition(":")[0] for line in lines) == sorted(reason for _, reason in UNIX.values())
    assert {(line["level"], line["pid"], line["uid"]) for line in lines} == {("warning", os.getpid(), os.getuid())}
    others_are_served(daemon)


def test_on_tcp(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(split_address(daemon.listen))) for _ in TCP]
        for sock, (data, _) in zip(socks, TCP.values(), strict=True):
            sock.sendall(data)
        others_are_served(daemon)
        for sock, (data, reason) in zip(socks, TCP.values(), strict=True):
            # The reason may be overtaken by the reset that follows from what was not read.
            assert reason.encode() in ended(sock) or data
            event = "link refused" if data.startswith(PEER) else "connection refused"
            # Of links that are refused for the same reason, only the first of each host is told.
            line = daemon.logged(event, reason if event == "link refused" else join_address(*sock.getsockname()))
            assert reason in line["reason"]
            assert line["level"] == "warning"
    others_are_served(daemon)


def test_half_a_frame(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    for data in (HELLO[:5], HELLO + HELLO[:20]):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(daemon.socket)
            sock.sendall(data)
        others_are_served(daemon)
    eventually(lambda: len(daemon.events("connection ended")) == 2, "both are logged")
    assert all("in the middle of a frame" in line["reason"] for line in daemon.events("connection ended"))


def test_a_flood_of_half_open_connections_is_bounded(cluster: Daemons) -> None:
    from ipcd import limits

    daemon = cluster.run("a")
    socks = [socket.create_connection(split_address(daemon.listen)) for _ in range(limits.HALF_OPEN + 20)]
    try:
        daemon.logged("connection refused", "half-open")
        others_are_served(daemon)
        assert len(daemon.events("connection refused")) == 1
    finally:
        for sock in socks:
            sock.close()


def test_the_daemon_keeps_nothing_of_them(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    others_are_served(daemon)
    before = daemon.descriptors()
    doors: list[tuple[int, Any, dict[str, tuple[bytes, str]]]] = [
        (socket.AF_UNIX, daemon.socket, UNIX),
        (socket.AF_INET, split_address(daemon.listen), TCP),
    ]
    for _ in range(30):
        for family, address, cases in doors:
            for data, _reason in cases.values():
                with socket.socket(family) as sock, contextlib.suppress(OSError):
                    sock.connect(address)
                    sock.sendall(data)
    eventually(lambda: daemon.descriptors() <= before, "the descriptors are closed")
    others_are_served(daemon)
