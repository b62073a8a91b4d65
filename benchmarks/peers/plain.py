"""What the clients that pass plain bytes have in common."""

from __future__ import annotations

import abc

from benchmarks.peers import pairs
from benchmarks.peers.base import Taken


class PlainClient(abc.ABC):
    """Requests and answers are the payloads themselves. Streams go over a connection of their own, which the first one
    opens."""

    taken: Taken
    _streaming: tuple[pairs.Send, pairs.Receive] | None = None

    def request(self, payload: bytes) -> bytes:
        return payload

    def payload(self, answer: bytes) -> bytes:
        return answer

    def stream(self, direction: str, count: int, payload: bytes) -> None:
        if self._streaming is None:
            self._streaming = self._open_streams()
        pairs.stream(*self._streaming, direction, count, payload)

    @abc.abstractmethod
    def _open_streams(self) -> tuple[pairs.Send, pairs.Receive]:
        """How one message is sent, and received."""
