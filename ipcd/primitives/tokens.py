"""Fencing tokens: numbers that only grow, over restarts of the daemon too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

# So many are set aside with each write, and at the latest when so many are left.
_BLOCK: Final = 1 << 20
_LEFT: Final = 1 << 16


class Tokens:
    """They begin at the clock, in microseconds: a daemon grants fewer than one in each, so that those of the next
    daemon are higher. With a folder for state that holds also where the clock was set back meanwhile: a file says up to
    where tokens may have been granted.
    """

    def __init__(self, folder: Path | None, kind: str = "lock", wall: Callable[[], float] = time.time) -> None:
        self._file = folder / f"{kind}.token" if folder is not None else None
        self._wall = wall
        self._most = 0

    def first(self) -> int:
        """Those of this daemon come after it.

        Raises:
            OSError, ValueError: the file cannot be read or written, or has no number.
        """
        first = int(self._wall() * 1e6)
        if self._file is not None and self._file.exists():
            first = max(first, int(self._file.read_text()))
        self.reserve(first)
        return first

    def reserve(self, last: int) -> None:
        """Sees to it that some more than the last one may be granted.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None or last + _LEFT < self._most:
            return
        self._most = last + _BLOCK
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        with new.open("w") as file:
            file.write(f"{self._most}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)
