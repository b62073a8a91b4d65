"""What a service manager is told: the protocol of sd_notify(3), one datagram for each word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping


def notify(state: str) -> None:
    """Tells $NOTIFY_SOCKET, if there is one: "READY=1", "STOPPING=1", "WATCHDOG=1"."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in {"/", "@"}:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def notify_reloading() -> None:
    """Says that settings are read again; READY=1 ends it. The time is what Type=notify-reload asks for."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds within which the service manager wants a sign of life; None: it wants none of this process.

    sd_watchdog_enabled(3).
    """
    raw = environ.get("WATCHDOG_USEC", "")
    if not (raw.isascii() and raw.isdecimal()) or not int(raw):
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(raw) / 1e6


class Watchdog:
    """Tells the service manager twice in each interval that the loop turns. It is a timer of that loop, so a loop that
    is stuck is noticed, which a thread would hide. Does nothing where no watchdog is wanted."""

    def __init__(self, interval: float | None) -> None:
        self._every = interval / 2 if interval else None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on."""
        if self._every is not None:
            notify("WATCHDOG=1")
            self._timer = self._loop.call_later(self._every, self.start)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
