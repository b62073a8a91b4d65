"""Fencing tokens: numbers that only grow, over restarts of the daemon too."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ipcd.log import Log

# So many are set aside with each write, and at the latest when so many are left.
_BLOCK: Final = 1 << 20
_LEFT: Final = 1 << 16


class Tokens:
    """They begin at the clock, in microseconds: a daemon grants fewer than one in each, so that those of the next
    daemon are higher. With a folder for state that holds also where the clock was set back meanwhile: a file says up to
    where tokens may have been granted. It is there once one was; while the disk does not take it the clock has to do,
    and the log says so.
    """

    def __init__(
        self, folder: Path | None, log: Log, kind: str = "lock", wall: Callable[[], float] = time.time
    ) -> None:
        self._file = folder / f"{kind}.token" if folder is not None else None
        self._log = log
        self._wall = wall
        self._most = 0

    def first(self) -> int:
        """Those of this daemon come after it."""
        first = int(self._wall() * 1e6)
        if self._file is not None:
            try:
                first = max(first, int(self._file.read_text()))
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                self._log.error("fencing tokens begin at the clock alone", file=self._file, reason=error)
        return first

    def reserve(self, last: int) -> None:
        """Sees to it that some more than the last one may be granted."""
        if self._file is None or last + _LEFT < self._most:
            return
        self._most = last + _BLOCK
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with new.open("w") as file:
                file.write(f"{self._most}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            # What was written of it would take room on a disk that has none.
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            self._log.error("fencing tokens are not kept", file=self._file, reason=error)
