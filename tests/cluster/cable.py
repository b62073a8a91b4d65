"""A cable that delays, loses and reorders what goes over it, or lets nothing through one way.

    python -I -S cable.py PORT SWITCH_FD

It is started on the host, whose interface eth0 it makes; at its other end is the interface PORT in the namespace of the
switch. Both are TAP devices, which a program reads and writes: what the kernel has for this (netem) is not in every
kernel. A line on its input is the weather from then on, in JSON: [to the switch, to the host]; it answers "ok".
As bare as can be, like enter.py.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

# linux/sched.h, linux/if_tun.h
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME = 1 << 16
# Frames under way, as of netem: what comes in addition is lost.
LIMIT = 1000


class Way:
    """One direction. Seconds, and shares of 1."""

    def __init__(self, target: int, dice: random.Random) -> None:
        self._target = target
        self._dice = dice
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._last = 0.0
        self.set()

    def set(self, delay: float = 0.0, loss: float = 0.0, reorder: float = 0.0, cut: bool = False) -> None:
        """The weather. What is reordered is not delayed."""
        self._delay, self._loss, self._reorder, self._cut = delay, loss, reorder, cut

    def take(self, frame: bytes, now: float) -> None:
        """A frame begins its way."""
        if self._cut or self._dice.random() < self._loss or len(self._under_way) >= LIMIT:
            return
        due = now
        if self._dice.random() >= self._reorder:
            self._last = due = max(self._last, now + self._delay)
        self._count += 1
        heapq.heappush(self._under_way, (due, self._count, frame))

    def give(self, now: float) -> float | None:
        """Delivers what has arrived; when the next will."""
        while self._under_way and self._under_way[0][0] <= now:
            frame = heapq.heappop(self._under_way)[2]
            try:
                os.write(self._target, frame)
            except OSError:
                pass  # that end is down
        return self._under_way[0][0] if self._under_way else None


def tap(name: str) -> int:
    """A TAP device in the namespace that this process is in."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def main(port: str, switch: str) -> None:
    """See the module."""
    try:
        host_end = tap("eth0")
    except OSError as error:
        sys.exit(str(error))
    if ctypes.CDLL(None, use_errno=True).setns(int(switch), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    switch_end = tap(port)
    # The same for each run: what a test meets is as random as it is, but it can be met again.
    dice = random.Random(port)
    ways = {host_end: Way(switch_end, dice), switch_end: Way(host_end, dice)}
    poll = select.poll()
    for fd in (0, *ways):
        poll.register(fd, select.POLLIN)
    print("ok", flush=True)
    while True:
        now = time.monotonic()
        dues = [due for due in [way.give(now) for way in ways.values()] if due is not None]
        for fd, _ in poll.poll(max(0.0, min(dues) - now) * 1000 if dues else None):
            if fd == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                for way, weather in zip(ways.values(), json.loads(line), strict=True):
                    way.set(**weather)
                print("ok", flush=True)
                continue
            try:
                ways[fd].take(os.read(fd, FRAME), time.monotonic())
            except BlockingIOError:
                pass
            except OSError:
                return  # the interface has been removed


if __name__ == "__main__":
    main(*sys.argv[1:])
