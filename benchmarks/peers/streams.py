"""The service of the gRPC-shaped peers: lab.v1's echo, and two methods for streams of any length.

Lab has no stream that does no work, so these two are generic handlers with Lab's messages.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc

from ipcd.demo.pb.lab.v1 import lab_pb2

SERVICE: Final = "bench.v1.Streams"
ECHO: Final = "/lab.v1.Lab/Echo"
SENT: Final = f"/{SERVICE}/Down"
RECEIVED: Final = f"/{SERVICE}/Up"

_COUNT_SIZE: Final = 4


def order(count: int, payload: bytes) -> lab_pb2.Payload:
    """The request for `count` messages of this payload."""
    return lab_pb2.Payload(data=count.to_bytes(_COUNT_SIZE, "little") + payload)


def _ordered(request: lab_pb2.Payload) -> tuple[int, lab_pb2.Payload]:
    data = request.data
    return int.from_bytes(data[:_COUNT_SIZE], "little"), lab_pb2.Payload(data=data[_COUNT_SIZE:])


def counted(count: int) -> lab_pb2.Payload:
    """The answer to a stream of `count` messages."""
    return lab_pb2.Payload(data=count.to_bytes(_COUNT_SIZE, "little"))


def count_of(answer: lab_pb2.Payload) -> int:
    """What `counted` says."""
    return int.from_bytes(answer.data, "little")


def _down(request: lab_pb2.Payload, _context: grpc.ServicerContext) -> Iterator[lab_pb2.Payload]:
    count, message = _ordered(request)
    return itertools.repeat(message, count)


def _up(requests: Iterator[lab_pb2.Payload], _context: grpc.ServicerContext) -> lab_pb2.Payload:
    return counted(sum(1 for _ in requests))


async def _aio_down(request: lab_pb2.Payload, _context: Any) -> AsyncIterator[lab_pb2.Payload]:
    count, message = _ordered(request)
    for _ in range(count):
        yield message


async def _aio_up(requests: AsyncIterator[lab_pb2.Payload], _context: Any) -> lab_pb2.Payload:
    count = 0
    async for _ in requests:
        count += 1
    return counted(count)


def _handlers(down: Any, up: Any) -> grpc.GenericRpcHandler:
    codecs: dict[str, Any] = {
        "request_deserializer": lab_pb2.Payload.FromString,
        "response_serializer": lab_pb2.Payload.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Down": grpc.unary_stream_rpc_method_handler(down, **codecs),
            "Up": grpc.stream_unary_rpc_method_handler(up, **codecs),
        },
    )


def handlers() -> grpc.GenericRpcHandler:
    """For a server that runs them in threads."""
    return _handlers(_down, _up)


def aio_handlers() -> grpc.GenericRpcHandler:
    """For a server on an event loop."""
    return _handlers(_aio_down, _aio_up)
