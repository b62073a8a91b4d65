"""Where the node's daemon listens, for the daemon and for those who look for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

SYSTEM: Final = "/run/ipcd/ipcd.sock"


def default_socket(environ: Mapping[str, str] | None = None) -> str:
    """$IPCD_SOCKET, else $XDG_RUNTIME_DIR/ipcd/ipcd.sock, else /run/ipcd/ipcd.sock. `environ`: os.environ if None."""
    environ = os.environ if environ is None else environ
    chosen = environ.get("IPCD_SOCKET")
    if chosen:
        return chosen
    # The specification of XDG base directories: a path that is not absolute is to be ignored.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return f"{runtime.rstrip('/')}/ipcd/ipcd.sock"
    return SYSTEM
