"""What pyzmq and pynng have in common: sockets for requests, for replies, and in pairs, at addresses of one kind."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from benchmarks.peers import pairs
from benchmarks.peers.base import Place, Taken
from benchmarks.peers.plain import PlainClient
from benchmarks.peers.serving import Threads


class SocketServer:
    """Echoes what comes to `replies`, and streams over `pair`; their `recv` raises `nothing` if nothing comes."""

    def __init__(self, address: str, replies: Any, pair: Any, nothing: type[Exception]) -> None:
        self.address = address
        self._threads = Threads()
        self._serve(replies, lambda: replies.send(replies.recv()), nothing)
        self._serve(pair, lambda: pairs.answer(pair.send, pair.recv), nothing)

    def _serve(self, socket: Any, answer: Callable[[], object], nothing: type[Exception]) -> None:
        def step() -> None:
            try:
                answer()
            except nothing:
                pass

        self._threads.run(step, socket.close)

    def close(self) -> None:
        self._threads.close()


class SocketClient(PlainClient):
    """Asks over `requests`; `_more` is closed before that."""

    def __init__(self, place: Place, requests: Any) -> None:
        self.taken = Taken(place.socket, "ipc://")
        self._address = place.address
        self._requests = requests
        self._more: list[Any] = []

    def call(self, request: bytes) -> Any:
        self._requests.send(request)
        return self._requests.recv()

    def _open_streams(self) -> tuple[pairs.Send, pairs.Receive]:
        pair = self._pair(pair_address(self._address))
        self._more.append(pair)
        return pair.send, pair.recv

    @abc.abstractmethod
    def _pair(self, address: str) -> Any:
        """A socket that is connected to the server's for streams."""

    def close(self) -> None:
        for socket in (*self._more, self._requests):
            socket.close()


def pair_address(address: str) -> str:
    """Where a server at `address` has its socket for streams."""
    return f"{address}-pair"
