"""Readiness for a service manager: the protocol of sd_notify(3), which is one datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Tells $NOTIFY_SOCKET, if there is one: "READY=1", "RELOADING=1", "STOPPING=1"."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in {"/", "@"}:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
