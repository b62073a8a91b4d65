"""The socket of a `shm` wire: what both of its threads write to, and what tells of the peer's end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Buffer
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.unix import UnixWire


class Control(UnixWire):
    """A UNIX socket that any thread may send over.

    Where descriptors do not fit into this process any more, that is no violation: `truncated` says so, and they are to
    be declined.
    """

    def __init__(self, sock: socket.socket, *, peer: str) -> None:
        super().__init__(sock, peer=peer, accept_fds=True, allowed=codec.ALLOWED_ON_SHM)
        self.truncated = False
        self._violation = ""
        self._writing = threading.RLock()  # `send` flushes

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        with self._writing:
            return super().send(buffers, fds)

    def flush(self) -> bool:
        with self._writing:
            return super().flush()

    def tell(self, type_: int, number: int, payload: bytes = b"", fds: Sequence[Fd] = ()) -> None:
        """Sends a frame about segment `number`, if the peer is still there: its end is for the reader to find."""
        try:
            self.send(codec.encode(type_, 0, payload, 0, number, len(fds)), fds)
        except WireClosed:
            pass

    def _keep_fds(self, control: Sequence[tuple[int, int, bytes]], flags: int) -> None:
        if flags & socket.MSG_CTRUNC:
            fds = fdlib.received(control, 0)
            fdlib.close_all(fds)
            if len(fds) == fdlib.MAX_FDS:
                raise ProtocolError("truncated-fds", f"more than {fdlib.MAX_FDS} descriptors in one message")
            self.truncated = True
        else:
            super()._keep_fds(control, flags)

    def give_up(self, why: str, violation: str = "") -> WireClosed:
        """Nothing more will come, because of that: the error that says so. `violation`: what the peer broke."""
        if self._gone is None:
            self._violation = violation
        return self._end(why)

    def _closed(self, why: str) -> WireClosed:
        error = super()._closed(why)
        error.violation = self._violation
        return error

    def abandon(self) -> None:
        # The lock may be held by a thread that is not in this process.
        self._writing = threading.RLock()
        super().abandon()

    @property
    def held(self) -> socket.socket:
        """The socket, which stays open as long as this is referred to."""
        return self._socket

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self._gone is not None

    @property
    def why_gone(self) -> str:
        """Why nothing more will come."""
        return self._why_gone()
