"""An end of a pipe without a name, for an event loop."""

from __future__ import annotations

from typing import Any

from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.loop_pipe import Opening, Pipe, ReadEnd, WriteEnd
from ipcd_client.primitives.pipe_parts import READ, WRITE, parsed, token_of


class PipeEnd:
    """An end that any one process of any node can open, once. It pickles, and travels as `token`."""

    def __init__(self, name: str, side: str, node: str | None = None) -> None:
        self.side = side
        self._name = name
        self._node = node

    @property
    def token(self) -> bytes:
        """For a message to another process: `pipe_end` makes this end of it."""
        return token_of(self._name, self.side)

    def open_read(self) -> Opening[ReadEnd]:
        """As `Pipe.open_read`, of the end that reads. It does not wait for the other end.

        Raises:
            BadRequest: this is the end that writes.
            NameTaken: it was opened before, anywhere.
            NoSuchName: it was not opened in time, or the pipe is over.
        """
        return self._pipe(READ).open_read()

    def open_write(self) -> Opening[WriteEnd]:
        """As `Pipe.open_write`, of the end that writes; otherwise as `open_read`."""
        return self._pipe(WRITE).open_write()

    def _pipe(self, side: str) -> Pipe:
        if self.side != side:
            raise BadRequest(f"this end of the pipe is the one to {self.side}")
        return Pipe(self._name, node=self._node)

    def __reduce__(self) -> Any:
        return PipeEnd, (self._name, self.side, self._node)


def pipe_end(token: bytes, *, node: str | None = None) -> PipeEnd:
    """The end of a pipe that a token stands for. `node`: path of the daemon's socket.

    Raises:
        BadRequest: it is no token.
    """
    return PipeEnd(*parsed(token), node)
