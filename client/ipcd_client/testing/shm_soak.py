"""Sends numbered messages both ways between two processes, and sums them up: python -m ipcd_client.testing.shm_soak.

No wait has a timeout: a wake-up that is lost is one for good. Both ends are held up now and then, and send ahead of the
other now little, now much, so that the ring is empty at one time and full at another.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import subprocess
import sys
import time
import zlib
from typing import Final, NamedTuple

from ipcd_client.frame import codec
from ipcd_client.frame.codec import Buffer
from ipcd_client.wire.shm import ShmWire

# Messages of one `send`, at most. Their sizes are up to 40 bytes.
BATCH: Final = 40
# How many messages an end sends ahead of those that it receives; one of these for a while.
WINDOWS: Final = (1, 100, 10_000)
# Sent ahead of what the transport takes, in bytes.
AHEAD: Final = 10_000
_NUMBER: Final = struct.Struct("<I")


class Report(NamedTuple):
    """What one end has seen."""

    sent: int
    sent_sum: int
    received: int
    received_sum: int
    waits: int  # polls that did not return at once
    full: int  # of these, with something left to send


def run(wire: ShmWire, count: int, seed: int) -> Report:
    """Sends and receives so many messages.

    Raises:
        WireClosed: the peer has ended before.
        AssertionError: a message came twice, or is missing.
    """
    chance = random.Random(seed)
    fillings = [chance.randbytes(chance.randrange(37)) for _ in range(256)]
    sent = received = sent_sum = received_sum = waits = full = 0
    crc, pack, unpack = zlib.crc32, _NUMBER.pack, _NUMBER.unpack_from
    window, next_delay = 1, 0
    while sent < count or received < count or wire.backlog:
        if sent < count and wire.backlog < AHEAD and sent - received < window:
            parts: list[Buffer] = []
            for _ in range(min(chance.randrange(1, BATCH), count - sent)):
                payload = pack(sent) + fillings[sent & 255]
                sent_sum = crc(payload, sent_sum)
                parts += codec.encode(codec.MESSAGE, 1, payload)
                sent += 1
            wire.send([b"".join(parts)])
        while received < count and (frame := wire.recv()) is not None:
            payload = bytes(frame.payload)
            assert unpack(payload)[0] == received, f"{unpack(payload)[0]} came for {received}"
            received_sum = crc(payload, received_sum)
            received += 1
        if received > next_delay:
            next_delay = received + chance.randrange(1000)
            window = chance.choice(WINDOWS)
            time.sleep(chance.random() * 0.0003)
        if wire.backlog and wire.flush():
            continue
        may_send = sent < count and wire.backlog < AHEAD and sent - received < window
        if not may_send and (received < count or wire.backlog):
            write = bool(wire.backlog)
            if not wire.poll(0, write=write):
                waits += 1
                full += write
                wire.poll(None, write=write)
    return Report(sent, sent_sum, received, received_sum, waits, full)


def both(count: int, limit: float) -> tuple[Report, Report]:
    """Two processes, `count` messages each way.

    Raises:
        TimeoutError: they have not ended within `limit` seconds, as after a lost wake-up.
        AssertionError: one has failed.
    """
    one, other = socket.socketpair()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "ipcd_client.testing.shm_soak", str(sock.fileno()), str(count), str(seed)],
            pass_fds=[sock.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, sock in enumerate((one, other))
    ]
    one.close()
    other.close()
    try:
        end = time.monotonic() + limit
        answers = []
        for child in children:
            assert child.stdout is not None
            told = select.poll()
            told.register(child.stdout, select.POLLIN)
            if not told.poll(max(0.0, end - time.monotonic()) * 1000):
                raise TimeoutError(f"not within {limit:g} s: a wake-up was lost, or the machine is slow")
            answers.append(child.stdout.read())
            assert child.wait(limit) == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
    first, second = (Report(*map(int, answer.split())) for answer in answers)
    return first, second


def main(fd: str, count: str, seed: str) -> None:
    """One end."""
    wire = ShmWire(socket.socket(fileno=int(fd)), peer="the other end")
    wire.max_frame = 1 << 16
    report = run(wire, int(count), int(seed))
    sys.stdout.write(" ".join(map(str, report)))
    sys.stdout.flush()
    wire.close()
    sys.stdout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
