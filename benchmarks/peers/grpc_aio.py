"""What the peers of grpc.aio's shape have in common."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from benchmarks.peers import streams
from benchmarks.peers.base import DOWN, PATIENCE, Sustained, check
from benchmarks.peers.grpc_client import ChannelClient, check_count
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc


class _Servicer(lab_pb2_grpc.LabServicer):
    async def Echo(self, request: lab_pb2.Payload, _context: Any) -> lab_pb2.Payload:  # noqa: N802 - as in the .proto
        return request


class AioServer:
    """`server`, a `grpc.aio.Server`, with the services on it. `address` is what its clients need."""

    def __init__(self, server: Any, address: str) -> None:
        self.address = address
        self._server = server
        lab_pb2_grpc.add_LabServicer_to_server(_Servicer(), server)
        server.add_generic_rpc_handlers((streams.aio_handlers(),))

    async def start(self) -> AioServer:
        await self._server.start()
        return self

    async def close(self) -> None:
        await self._server.stop(1.0)


class AioClient(ChannelClient):
    """`benchmarks.peers.base.Client` for a `grpc.aio.Channel`."""

    async def sustain(self, _way: str, request: Any, in_flight: int, seconds: float, size: int) -> Sustained:
        echo = self._echo
        began = perf_counter()
        until = began + seconds

        async def run() -> int:
            calls = 0
            while perf_counter() < until:
                answer = await echo(request)
                check(size, len(answer.data))
                calls += 1
            return calls

        async with asyncio.timeout(seconds + PATIENCE):
            calls = sum(await asyncio.gather(*(run() for _ in range(in_flight))))
        return Sustained(calls, perf_counter() - began)

    async def stream(self, direction: str, count: int, payload: bytes) -> None:
        if direction == DOWN:
            size = len(payload)
            got = 0
            async for message in self._down(streams.order(count, payload), timeout=PATIENCE):
                check(size, len(message.data))
                got += 1
        else:
            message = lab_pb2.Payload(data=payload)

            async def messages() -> Any:
                for _ in range(count):
                    yield message

            got = streams.count_of(await self._up(messages(), timeout=PATIENCE))
        check_count(count, got)

    async def close(self) -> None:
        await self._channel.close()
