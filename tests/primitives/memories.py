"""The memory of values that a daemon has."""

from __future__ import annotations

import contextlib
from pathlib import Path

from integration.daemons import Daemon


def memories(daemon: Daemon) -> int:
    """Values with memory of their own, their copies and those being written among them."""
    count = 0
    for each in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "memfd:ipcd-sealed" in str(each.readlink())
    return count
