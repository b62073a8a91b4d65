"""What the peers of grpc's shape have in common: a server and a client, given a `grpc.Server` and a `grpc.Channel`."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final

import grpc

from benchmarks.peers import streams
from benchmarks.peers.base import DOWN, MAX_MESSAGE, PATIENCE, THREADS, Sustained, Taken, WrongAnswerError, check
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
from ipcd.demo.service import LabServicer

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Otherwise grpcio's channels to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
)


def executor() -> ThreadPoolExecutor:
    """For the handlers."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="handler")


class GrpcServer:
    """`server` with the services on it, started. `address` is what its clients need."""

    def __init__(self, server: grpc.Server, address: str) -> None:
        self.address = address
        self._server = server
        lab_pb2_grpc.add_LabServicer_to_server(LabServicer(), server)
        server.add_generic_rpc_handlers((streams.handlers(),))
        server.start()

    def close(self) -> None:
        self._server.stop(1.0).wait(2.0)


class GrpcClient:
    """See `benchmarks.peers.base.Client`."""

    def __init__(self, channel: grpc.Channel, taken: Taken) -> None:
        self.taken = taken
        self._channel = channel
        # The stub's own multicallable, as a program would have it.
        self._echo: Any = lab_pb2_grpc.LabStub(channel).Echo
        codecs: tuple[Any, Any] = (lab_pb2.Payload.SerializeToString, lab_pb2.Payload.FromString)
        self._down: Any = channel.unary_stream(streams.SENT, *codecs)
        self._up: Any = channel.stream_unary(streams.RECEIVED, *codecs)
        self.call: Callable[[Any], Any] = self._echo

    def request(self, payload: bytes) -> lab_pb2.Payload:
        return lab_pb2.Payload(data=payload)

    def payload(self, answer: Any) -> bytes:
        data: bytes = answer.data
        return data

    def sustain(self, way: str, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        if way == "futures":
            return self._with_futures(request, in_flight, seconds, size)
        return self._with_threads(request, in_flight, seconds, size)

    def stream(self, direction: str, count: int, payload: bytes) -> None:
        if direction == DOWN:
            size = len(payload)
            got = 0
            for message in self._down(streams.order(count, payload), timeout=PATIENCE):
                check(size, len(message.data))
                got += 1  # noqa: SIM113 - enumerate would have no number for a stream without a message
        else:
            answer = self._up(itertools.repeat(lab_pb2.Payload(data=payload), count), timeout=PATIENCE)
            got = int.from_bytes(answer.data, "little")
        if got != count:
            raise WrongAnswerError(f"{count} messages were sent, {got} came")

    def close(self) -> None:
        self._channel.close()

    def _with_futures(self, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        """The oldest is waited for; what it makes room for is sent then."""
        send = self._echo.future
        began = perf_counter()
        until = began + seconds
        flying = deque(send(request) for _ in range(in_flight))
        calls = 0
        while flying:
            answer = flying.popleft().result(PATIENCE)
            check(size, len(answer.data))
            calls += 1
            if perf_counter() < until:
                flying.append(send(request))
        return Sustained(calls, perf_counter() - began)

    def _with_threads(self, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        return call_in_threads([lambda: check(size, len(self._echo(request).data))] * in_flight, seconds)


def call_in_threads(calls: list[Callable[[], object]], seconds: float) -> Sustained:
    """Each of `calls` over and over in a thread of its own, all begun at once, for so long."""
    ready = threading.Barrier(len(calls) + 1)
    counts = [0] * len(calls)
    errors: list[BaseException] = []
    until = 0.0

    def run(index: int) -> None:
        call = calls[index]
        done = 0
        ready.wait(PATIENCE)
        try:
            while perf_counter() < until:
                call()
                done += 1
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            errors.append(error)
        counts[index] = done

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    began = perf_counter()
    until = began + seconds
    ready.wait(PATIENCE)
    for thread in threads:
        thread.join(seconds + PATIENCE)
    took = perf_counter() - began
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"a call has not come back for {PATIENCE:.0f} s")
    return Sustained(sum(counts), took)
