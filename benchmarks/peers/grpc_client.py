"""What the clients of grpc's shape and of grpc.aio's have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import streams
from benchmarks.peers.base import Taken, WrongAnswerError
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc


class ChannelClient:
    """A client that owns `channel`, a `grpc.Channel` or a `grpc.aio.Channel`."""

    def __init__(self, channel: Any, taken: Taken) -> None:
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


def check_count(sent: int, came: int) -> None:
    """Raises `WrongAnswerError` unless as many messages of a stream came as were sent."""
    if came != sent:
        raise WrongAnswerError(f"{sent} messages were sent, {came} came")
