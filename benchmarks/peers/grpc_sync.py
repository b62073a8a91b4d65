"""What the peers of grpc's shape have in common: a server and a client, given a `grpc.Server` and a `grpc.Channel`."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from benchmarks.peers import streams
from benchmarks.peers.base import DOWN, MAX_MESSAGE, PATIENCE, THREADS, Sustained, check
from benchmarks.peers.grpc_client import ChannelClient, check_count
from benchmarks.peers.sustaining import in_threads, oldest_first
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


class GrpcClient(ChannelClient):
    """See `benchmarks.peers.base.Client`."""

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
            got = streams.count_of(answer)
        check_count(count, got)

    def close(self) -> None:
        self._channel.close()

    def _with_futures(self, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        send = self._echo.future
        return oldest_first(
            lambda: send(request), lambda future: len(future.result(PATIENCE).data), in_flight, seconds, size
        )

    def _with_threads(self, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        return in_threads([lambda: check(size, len(self._echo(request).data))] * in_flight, seconds)
