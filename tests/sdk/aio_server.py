"""A program that serves Echo on an event loop: python aio_server.py NAME SOCKET. It ends well on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import ipcd_client.aio

SERVICE = "conformance.v1.Echo"


class Echo(grpc.GenericRpcHandler):
    """Some of the methods of tests/conformance/echo.py, as coroutines."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.held = 0

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "Down": grpc.unary_stream_rpc_method_handler,
            "Up": grpc.stream_unary_rpc_method_handler,
            "Both": grpc.stream_stream_rpc_method_handler,
        }
        name = details.method.removeprefix(f"/{SERVICE}/")
        behavior = getattr(self, name, None)
        return next((make(behavior) for kind, make in kinds.items() if behavior and name.startswith(kind)), None)

    async def UnaryEcho(self, request: bytes, _context: Any) -> bytes:
        return request

    async def UnaryHold(self, request: bytes, _context: Any) -> bytes:
        """Until as many are held as the request says."""
        self.held += 1
        if self.held >= int(request):
            self.released.set()
        await self.released.wait()
        return request

    async def UnaryWait(self, request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(3600)
        return request

    async def DownCount(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def UpJoin(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def BothEcho(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


async def main() -> None:
    server = ipcd_client.aio.server(handlers=(Echo(),), name=sys.argv[1], node=sys.argv[2])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print("ready", flush=True)
    await stop.wait()
    await server.stop(5)


if __name__ == "__main__":
    asyncio.run(main())
