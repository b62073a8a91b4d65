"""An end of a pipe without a name, for threads."""

from __future__ import annotations

import io
import os
from types import TracebackType
from typing import Any

from ipcd_client.errors import UsageError
from ipcd_client.primitives.pipe import Pipe
from ipcd_client.primitives.pipe_parts import READ, parsed, token_of


class PipeEnd:
    """An end that any one process of any node can open, once: it pickles, is inherited, and travels as `token`. It is a
    context manager, which gives the open file and closes it."""

    def __init__(self, name: str, side: str, node: str | None = None) -> None:
        self.side = side
        self._name = name
        self._node = node
        self._file: Any = None
        self._pid = 0

    @property
    def token(self) -> bytes:
        """For a message to another process: `pipe_end` makes this end of it."""
        return token_of(self._name, self.side)

    def open(self, *, buffering: int | None = None) -> Any:
        """The file: an `io.BufferedReader`, or a raw one that writes, as of `Pipe.open_read` and `Pipe.open_write`. It
        does not wait for the other end.

        Raises:
            NameTaken: it was opened before, anywhere.
            NoSuchName: it was not opened in time, or the pipe is over.
        """
        if self._file is not None:
            if self._pid != os.getpid():
                raise UsageError("this end of a pipe was opened in another process")
            return self._file
        pipe = Pipe(self._name, node=self._node)
        if self.side == READ:
            self._file = pipe.open_read(buffering=-1 if buffering is None else buffering)
        else:
            self._file = pipe.open_write(buffering=buffering or 0)
        self._pid = os.getpid()
        return self._file

    def close(self) -> None:
        """Closes the file, if it was opened here."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()

    def __enter__(self) -> io.RawIOBase:
        file: io.RawIOBase = self.open()
        return file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        if self._file is not None:
            raise UsageError("an end of a pipe that is open cannot be handed on")
        return PipeEnd, (self._name, self.side, self._node)


def pipe_end(token: bytes, *, node: str | None = None) -> PipeEnd:
    """The end of a pipe that a token stands for. `node`: path of the daemon's socket.

    Raises:
        BadRequest: it is no token.
    """
    return PipeEnd(*parsed(token), node)
