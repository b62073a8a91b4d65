"""multiprocessing's Connection, which `Pipe()` gives too.

`Pipe()` makes both ends in one process, for a child that inherits one of them. Here the two ends come from a listener's
UNIX socket, so that the processes are as unrelated as those of the other peers; class and kind of socket are the same.
"""

from __future__ import annotations

import threading
from multiprocessing import connection
from typing import Any

from benchmarks.peers import pairs
from benchmarks.peers.base import PATIENCE, Place, Sustained, Taken
from benchmarks.peers.plain import PlainClient
from benchmarks.peers.sustaining import any_order

_ECHO, _STREAM = b"e", b"s"
_BACKLOG = 64


class _Server:
    """A thread for each connection. The listener's socket ends with the process."""

    def __init__(self, place: Place) -> None:
        self.address = place.path("pipe")
        self._listener = connection.Listener(self.address, "AF_UNIX", backlog=_BACKLOG)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            accepted = self._listener.accept()
            threading.Thread(target=_serve_one, args=(accepted,), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def _serve_one(pipe: Any) -> None:
    try:
        if pipe.recv_bytes() == _STREAM:
            while True:
                pairs.answer(pipe.send_bytes, pipe.recv_bytes)
        while True:
            pipe.send_bytes(pipe.recv_bytes())
    except (EOFError, OSError):  # the client is gone
        pipe.close()


class _Client(PlainClient):
    def __init__(self, place: Place) -> None:
        self.taken = Taken(place.socket, "AF_UNIX")
        self._address = place.address
        self._pipe: Any = self._connected(_ECHO)
        self._streams: Any = None

    def _connected(self, purpose: bytes) -> Any:
        pipe = connection.Client(self._address, "AF_UNIX")
        pipe.send_bytes(purpose)
        return pipe

    def call(self, request: bytes) -> Any:
        self._pipe.send_bytes(request)
        return self._pipe.recv_bytes()

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        pipe = self._pipe

        def received() -> int:
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"no answer for {PATIENCE:.0f} s")
            return len(pipe.recv_bytes())

        return any_order(lambda: pipe.send_bytes(request), received, in_flight, seconds, size)

    def _open_streams(self) -> tuple[pairs.Send, pairs.Receive]:
        self._streams = self._connected(_STREAM)
        return self._streams.send_bytes, self._streams.recv_bytes

    def close(self) -> None:
        for pipe in (self._pipe, self._streams):
            if pipe is not None:
                pipe.close()


def serve(place: Place) -> _Server:
    """See `benchmarks.peers.base`."""
    return _Server(place)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
