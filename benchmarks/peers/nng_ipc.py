"""pynng over ipc://: req and rep; a context for each call in flight; pair for streams."""

from __future__ import annotations

from functools import partial
from typing import Any

import pynng

from benchmarks.peers.base import MAX_MESSAGE, PATIENCE, Place, Sustained, check
from benchmarks.peers.serving import PAUSE
from benchmarks.peers.sockets import SocketClient, SocketServer, pair_address
from benchmarks.peers.sustaining import in_threads

_PATIENCE_MS = int(PATIENCE * 1000)


def _options(receive_ms: int) -> dict[str, int]:
    # Without a limit of its own, what is larger than 1 MiB is dropped and the connection with it.
    return {"recv_timeout": receive_ms, "send_timeout": _PATIENCE_MS, "recv_max_size": MAX_MESSAGE}


class _Client(SocketClient):
    def __init__(self, place: Place) -> None:
        super().__init__(place, pynng.Req0(dial=place.address, block_on_dial=True, **_options(_PATIENCE_MS)))
        self._contexts: list[Any] = []

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        while len(self._contexts) < in_flight:
            self._contexts.append(self._requests.new_context())
            self._more.append(self._contexts[-1])

        def call(context: Any) -> None:
            context.send(request)
            check(size, len(context.recv()))

        return in_threads([partial(call, context) for context in self._contexts[:in_flight]], seconds)

    def _pair(self, address: str) -> Any:
        return pynng.Pair0(dial=address, block_on_dial=True, **_options(_PATIENCE_MS))


def serve(place: Place) -> SocketServer:
    """See `benchmarks.peers.base`."""
    address = f"ipc://{place.path('nng')}"
    options = _options(int(PAUSE * 1000))
    replies, pair = pynng.Rep0(listen=address, **options), pynng.Pair0(listen=pair_address(address), **options)
    return SocketServer(address, replies, pair, pynng.Timeout)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
