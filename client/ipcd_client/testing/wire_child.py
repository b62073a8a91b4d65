"""The other end of a wire, in a process of its own: python -m ipcd_client.testing.wire_child KIND FD BEHAVIOUR."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.testing.wire_factories import SOCKETS
from ipcd_client.wire.base import Wire

# Frames of `burst`.
BURST: Final = 20


def echo(wire: Wire) -> None:
    """Sends each frame back."""
    while True:
        try:
            frame = wire.recv()
        except WireClosed:
            return
        if frame is not None:
            wire.send(codec.encode(frame.type, frame.stream, frame.payload))
        else:
            wire.poll(None, write=bool(wire.backlog))
            wire.flush()


def burst(wire: Wire) -> None:
    """Sends BURST frames, and then nothing any more."""
    for number in range(BURST):
        wire.send(codec.encode(codec.MESSAGE, number + 1, bytes(number)))
    signal.pause()


def fork(wire: Wire) -> None:
    """Echoes, with a child that has inherited the wire, has abandoned it, and lives on until the standard input
    ends."""
    if os.fork() == 0:
        wire.abandon()
        sys.stdin.buffer.read()
        os._exit(0)
    echo(wire)


BEHAVIOURS: Final[dict[str, Callable[[Wire], None]]] = {"echo": echo, "burst": burst, "fork": fork}


def main(kind: str, fd: str, behaviour: str) -> None:
    """Until the peer closes, or a signal."""
    (factory,) = [factory for factory in SOCKETS if factory.kind == kind]
    wire = factory.over(socket.socket(fileno=int(fd)))
    wire.max_frame = 1 << 20
    BEHAVIOURS[behaviour](wire)
    wire.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
