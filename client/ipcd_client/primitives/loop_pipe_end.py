"""An end of a pipe without a name, for an event loop."""

from __future__ import annotations

from typing import Any

from ipcd_client.primitives.loop_pipe import Opening, Pipe, ReadEnd, WriteEnd
from ipcd_client.primitives.pipe_parts import READ, parsed, token_of


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

    def open(self) -> Opening[ReadEnd] | Opening[WriteEnd]:
        """To be awaited, or entered: as `Pipe.open_read` or `Pipe.open_write`. It does not wait for the other end.

        Raises:
            NameTaken: it was opened before, anywhere.
            NoSuchName: it was not opened in time, or the pipe is over.
        """
        pipe = Pipe(self._name, node=self._node)
        return pipe.open_read() if self.side == READ else pipe.open_write()

    def __reduce__(self) -> Any:
        return PipeEnd, (self._name, self.side, self._node)


def pipe_end(token: bytes, *, node: str | None = None) -> PipeEnd:
    """The end of a pipe that a token stands for. `node`: path of the daemon's socket.

    Raises:
        BadRequest: it is no token.
    """
    return PipeEnd(*parsed(token), node)
