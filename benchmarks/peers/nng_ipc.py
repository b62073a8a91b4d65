"""pynng over ipc://: req and rep; a context for each call in flight; pair for streams."""

from __future__ import annotations

from functools import partial
from typing import Any

import pynng

from benchmarks.peers import pairs
from benchmarks.peers.base import MAX_MESSAGE, PATIENCE, Place, Sustained, Taken, check
from benchmarks.peers.grpc_sync import call_in_threads
from benchmarks.peers.serving import PAUSE, Threads

_PATIENCE_MS = int(PATIENCE * 1000)


def _options(receive_ms: int) -> dict[str, int]:
    # Without a limit of its own, what is larger than 1 MiB is dropped and the connection with it.
    return {"recv_timeout": receive_ms, "send_timeout": _PATIENCE_MS, "recv_max_size": MAX_MESSAGE}


class _Server:
    def __init__(self, place: Place) -> None:
        self.address = f"ipc://{place.path('nng')}"
        self._threads = Threads()
        pause = int(PAUSE * 1000)
        replies = pynng.Rep0(listen=self.address, **_options(pause))
        pair = pynng.Pair0(listen=f"{self.address}-pair", **_options(pause))

        def echo() -> None:
            try:
                replies.send(replies.recv())
            except pynng.Timeout:
                pass

        def stream() -> None:
            try:
                pairs.answer(pair.send, pair.recv)
            except pynng.Timeout:
                pass

        self._threads.run(echo, replies.close)
        self._threads.run(stream, pair.close)

    def close(self) -> None:
        self._threads.close()


class _Client:
    def __init__(self, place: Place) -> None:
        self.taken = Taken(place.socket, "ipc://")
        self._address = place.address
        self._requests: Any = pynng.Req0(dial=place.address, block_on_dial=True, **_options(_PATIENCE_MS))
        self._contexts: list[Any] = []
        self._pair: Any = None

    def request(self, payload: bytes) -> bytes:
        return payload

    def call(self, request: bytes) -> Any:
        self._requests.send(request)
        return self._requests.recv()

    def payload(self, answer: bytes) -> bytes:
        return answer

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        while len(self._contexts) < in_flight:
            self._contexts.append(self._requests.new_context())

        def call(context: Any) -> None:
            context.send(request)
            check(size, len(context.recv()))

        return call_in_threads([partial(call, context) for context in self._contexts[:in_flight]], seconds)

    def stream(self, direction: str, count: int, payload: bytes) -> None:
        if self._pair is None:
            self._pair = pynng.Pair0(dial=f"{self._address}-pair", block_on_dial=True, **_options(_PATIENCE_MS))
        pairs.stream(self._pair.send, self._pair.recv, direction, count, payload)

    def close(self) -> None:
        for one in (*self._contexts, self._requests, self._pair):
            if one is not None:
                one.close()


def serve(place: Place) -> _Server:
    """See `benchmarks.peers.base`."""
    return _Server(place)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
