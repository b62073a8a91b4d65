"""pyzmq over ipc://: REQ and REP; a DEALER where many are in flight; PAIR for streams."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import zmq

from benchmarks.peers import pairs
from benchmarks.peers.base import PATIENCE, Place, Sustained, Taken, check
from benchmarks.peers.serving import PAUSE, Threads

_PATIENCE_MS = int(PATIENCE * 1000)


def _socket(kind: Any, timeout_ms: int) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.rcvtimeo = timeout_ms
    socket.sndtimeo = _PATIENCE_MS
    return socket


class _Server:
    def __init__(self, place: Place) -> None:
        self.address = f"ipc://{place.path('zmq')}"
        self._threads = Threads()
        replies, pair = _socket(zmq.REP, int(PAUSE * 1000)), _socket(zmq.PAIR, int(PAUSE * 1000))
        replies.bind(self.address)
        pair.bind(f"{self.address}-pair")

        def echo() -> None:
            try:
                replies.send(replies.recv())
            except zmq.Again:
                pass

        def stream() -> None:
            try:
                pairs.answer(pair.send, pair.recv)
            except zmq.Again:
                pass

        self._threads.run(echo, replies.close)
        self._threads.run(stream, pair.close)

    def close(self) -> None:
        self._threads.close()


class _Client:
    def __init__(self, place: Place) -> None:
        self.taken = Taken(place.socket, "ipc://")
        self._address = place.address
        self._requests = _socket(zmq.REQ, _PATIENCE_MS)
        self._requests.connect(place.address)
        self._dealer: Any = None
        self._pair: Any = None

    def request(self, payload: bytes) -> bytes:
        return payload

    def call(self, request: bytes) -> Any:
        self._requests.send(request)
        return self._requests.recv()

    def payload(self, answer: bytes) -> bytes:
        return answer

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        if self._dealer is None:
            self._dealer = _socket(zmq.DEALER, _PATIENCE_MS)
            self._dealer.connect(self._address)
        dealer, parts = self._dealer, [b"", request]  # the empty part stands for REQ's envelope
        began = perf_counter()
        until = began + seconds
        for _ in range(in_flight):
            dealer.send_multipart(parts)
        flying, calls = in_flight, 0
        while flying:
            check(size, len(dealer.recv_multipart()[1]))
            calls += 1
            if perf_counter() < until:
                dealer.send_multipart(parts)
            else:
                flying -= 1
        return Sustained(calls, perf_counter() - began)

    def stream(self, direction: str, count: int, payload: bytes) -> None:
        if self._pair is None:
            self._pair = _socket(zmq.PAIR, _PATIENCE_MS)
            self._pair.connect(f"{self._address}-pair")
        pairs.stream(self._pair.send, self._pair.recv, direction, count, payload)

    def close(self) -> None:
        for socket in (self._requests, self._dealer, self._pair):
            if socket is not None:
                socket.close()


def serve(place: Place) -> _Server:
    """See `benchmarks.peers.base`."""
    return _Server(place)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
