"""iceoryx2: request and response; publish and subscribe for streams. Both sides poll for what comes next.

Its files are in the run's directory; what it keeps in /dev/shm begins with a name of this run, and is removed by it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from benchmarks.peers import pairs
from benchmarks.peers.base import PATIENCE, Place, Sustained, Taken
from benchmarks.peers.plain import PlainClient
from benchmarks.peers.sustaining import oldest_first

_IN_FLIGHT = 32
_BUFFER = 64  # messages of a stream that are on their way
_BYTES = iox2.Slice[ctypes.c_uint8]

# The server polls without pause while there is something to do, and rarely when it is others' turn: it would take a CPU
# from them.
_BUSY = 0.002  # seconds after the last message
_REST = 0.005  # seconds between two looks
_LOOKS = 500  # looks for a call between two for the order of a stream


def _prefix(place: Place) -> str:
    return f"{Path(place.directory).name}-"


def _copied(message: Any) -> bytes:
    """The payload of what was received, which goes back to the sender."""
    part = message.payload()
    data = ctypes.string_at(part.as_ptr(), part.len())
    message.delete()
    return data


def _filled(loaned: Any, data: bytes) -> Any:
    ctypes.memmove(loaned.payload().as_ptr(), data, len(data))
    return loaned.assume_init()


def _poll(look: Any) -> Any:
    until = 0.0
    while True:
        for _ in range(1000):
            found = look()
            if found is not None:
                return found
        if not until:
            until = time.monotonic() + PATIENCE
        elif time.monotonic() > until:
            raise TimeoutError(f"nothing came for {PATIENCE:.0f} s")


class _Node:
    def __init__(self, place: Place) -> None:
        iox2.set_log_level(iox2.LogLevel.Error)
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(place.directory)
        config.global_cfg.prefix = iox2.FileName.new(_prefix(place))
        # Signals are for whoever runs this: it ends by being told to.
        builder = iox2.NodeBuilder.new().signal_handling_mode(iox2.SignalHandlingMode.Disabled).config(config)
        self.node = builder.create(iox2.ServiceType.Ipc)

    def calls(self) -> Any:
        builder = self.node.service_builder(iox2.ServiceName.new("echo")).request_response(_BYTES, _BYTES)
        builder = builder.max_active_requests_per_client(_IN_FLIGHT).max_loaned_requests(_IN_FLIGHT)
        return (
            builder.enable_safe_overflow_for_requests(False).enable_safe_overflow_for_responses(False).open_or_create()
        )

    def topic(self, name: str) -> Any:
        builder = self.node.service_builder(iox2.ServiceName.new(name)).publish_subscribe(_BYTES)
        return builder.enable_safe_overflow(False).subscriber_max_buffer_size(_BUFFER).open_or_create()


class _Streams:
    def __init__(self, node: _Node, out: str, back: str) -> None:
        topic = node.topic(out)
        builder = topic.publisher_builder().initial_max_slice_len(1)
        builder = builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
        self._topics = [topic, node.topic(back)]  # open as long as this is
        self._publisher = builder.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered).create()
        self.subscriber = self._topics[1].subscriber_builder().buffer_size(_BUFFER).create()

    def send(self, data: bytes) -> None:
        _filled(self._publisher.loan_slice_uninit(len(data)), data).send()

    def receive(self) -> bytes:
        return _copied(_poll(self.subscriber.receive))


class _Server(_Node):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.address = place.name
        self._stop = threading.Event()
        self._prefix = _prefix(place)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        if not self._ready.wait(PATIENCE):
            raise TimeoutError("iceoryx2 does not start")

    def _run(self) -> None:
        calls = self.calls()
        builder = calls.server_builder().initial_max_slice_len(1)
        server = builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo).create()
        streams = _Streams(self, "down", "up")
        self._ready.set()
        busy_until = 0.0
        while not self._stop.is_set():
            for _ in range(_LOOKS):
                request = server.receive()
                if request is not None:
                    _answer(request)
                    busy_until = time.monotonic() + _BUSY
            if streams.subscriber.has_samples():
                pairs.answer(streams.send, streams.receive)
                busy_until = time.monotonic() + _BUSY
            elif time.monotonic() > busy_until:
                time.sleep(_REST)
        # In this order, and in the thread that made them.
        del streams, server, builder, calls

    def close(self) -> None:
        self._stop.set()
        self._thread.join(1.0)
        del self.node
        for path in Path("/dev/shm").glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)


def _answer(request: Any) -> None:
    part = request.payload()
    size = part.len()
    loaned = request.loan_slice_uninit(size)
    ctypes.memmove(loaned.payload().as_ptr(), part.as_ptr(), size)
    loaned.assume_init().send()
    request.delete()


class _Client(_Node, PlainClient):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.taken = Taken(place.socket, "request/response, polled")
        self._calls = self.calls()
        builder = self._calls.client_builder().initial_max_slice_len(1).max_active_requests(_IN_FLIGHT)
        self._client = builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo).create()

    def _send(self, request: bytes) -> Any:
        return _filled(self._client.loan_slice_uninit(len(request)), request).send()

    def _received(self, pending: Any) -> bytes:
        data = _copied(_poll(pending.receive))
        pending.delete()
        return data

    def call(self, request: bytes) -> Any:
        return self._received(self._send(request))

    def sustain(self, _way: str, request: bytes, in_flight: int, seconds: float, size: int) -> Sustained:
        return oldest_first(
            lambda: self._send(request), lambda pending: len(self._received(pending)), in_flight, seconds, size
        )

    def _open_streams(self) -> tuple[pairs.Send, pairs.Receive]:
        streams = _Streams(self, "up", "down")
        return streams.send, streams.receive

    def close(self) -> None:
        self._streaming = None
        del self._client, self._calls, self.node


def serve(place: Place) -> _Server:
    """See `benchmarks.peers.base`."""
    return _Server(place)


def connect(place: Place) -> _Client:
    """See `benchmarks.peers.base`."""
    return _Client(place)
