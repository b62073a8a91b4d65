"""pyzmq over ipc://: REQ and REP; a DEALER where many are in flight; PAIR for streams."""

from __future__ import annotations

from typing import Any

import zmq

from benchmarks.peers.base import PATIENCE, Place, Sustained
from benchmarks.peers.serving import PAUSE
from benchmarks.peers.sockets import SocketClient, SocketServer, pair_address
from benchmarks.peers.sustaining import any_order

_PATIENCE_MS = int(PATIENCE * 1000)


def _socket(kind: Any, timeout_ms: int) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.rcvtimeo = timeout_ms
    socket.sndtimeo = _PATIENCE_MS
    return socket


def _bound(kind: Any, address: str) -> Any:
    socket = _socket(kind, int(PAUSE * 1000))
    socket.bind(address)
    return socket


def _connected(kind: Any, address: str) -> Any:
    socket = _socket(kind, _PATIENCE_MS)
    socket.connect(address)
    return socket


class _Client(SocketClient):
    def __init__(self, place: Place) -> None:
        super().__init__(place, _connected(zmq.REQ, place.address))
        self._dealer: Any = None

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        if self._dealer is None:
            self._dealer = _connected(zmq.DEALER, self._address)
            self._more.append(self._dealer)
        dealer, parts = self._dealer, [b"", request]  # the empty part stands for REQ's envelope
        return any_order(
            lambda: dealer.send_multipart(parts), lambda: len(dealer.recv_multipart()[1]), in_flight, seconds, size
        )

    def _pair(self, address: str) -> Any:
        return _connected(zmq.PAIR, address)


def serve(place: Place) -> SocketServer:
    """See `benchmarks.peers.base`."""
    address = f"ipc://{place.path('zmq')}"
    return SocketServer(address, _bound(zmq.REP, address), _bound(zmq.PAIR, pair_address(address)), zmq.Again)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
