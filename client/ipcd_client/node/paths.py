"""Where the daemon's socket is."""

from __future__ import annotations

import os


def default_socket() -> str:
    """$IPCD_SOCKET, else $XDG_RUNTIME_DIR/ipcd/ipcd.sock, else /run/ipcd/ipcd.sock."""
    chosen = os.environ.get("IPCD_SOCKET")
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime or "/run", "ipcd", "ipcd.sock")
