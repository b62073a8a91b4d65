"""A program that writes down which calls its handlers see: python recording_server.py NAME SOCKET FILE KIND SERVES

It serves PATH of `conformance.ways`, of that kind (`stream_unary`), on threads or on a loop, and answers with its name.
A line of the file is its name and the request, or the first of several. A call that is to be held is answered after
SIGUSR1. The server ends well on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio

SERVICE = "conformance.v1.Echo"
PATH = f"/{SERVICE}/Way"
HOLD = b"hold"

name, socket_path, file, kind, serves = sys.argv[1:]
log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
released = threading.Event()
released_loop = asyncio.Event()


def seen(request: bytes) -> bool:
    """Writes it down. Whether it is to be held."""
    os.write(log, b"%s %s\n" % (name.encode(), request))
    return request.startswith(HOLD)


def answer(argument: Any, _context: Any) -> bytes:
    request = next(argument) if kind.startswith("stream") else argument
    if seen(request):
        released.wait()
    return name.encode()


def answers(argument: Any, context: Any) -> Iterator[bytes]:
    yield answer(argument, context)


async def loop_answer(argument: Any, _context: Any) -> bytes:
    request = await anext(aiter(argument)) if kind.startswith("stream") else argument
    if seen(request):
        await released_loop.wait()
    return name.encode()


async def loop_answers(argument: Any, context: Any) -> AsyncIterator[bytes]:
    yield await loop_answer(argument, context)


class Handlers(grpc.GenericRpcHandler):
    """The one method."""

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method != PATH:
            return None
        one, many = (answer, answers) if serves == "threads" else (loop_answer, loop_answers)
        return getattr(grpc, f"{kind}_rpc_method_handler")(many if kind.endswith("stream") else one)


def on_threads() -> None:
    server = ipcd_client.server(handlers=(Handlers(),), name=name, node=socket_path)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(20))
    signal.signal(signal.SIGUSR1, lambda *_: released.set())
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


async def on_a_loop() -> None:
    server = ipcd_client.aio.server(handlers=(Handlers(),), name=name, node=socket_path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, released_loop.set)
    await server.start()
    print("ready", flush=True)
    await stop.wait()
    await server.stop(20)


if __name__ == "__main__":
    if serves == "threads":
        on_threads()
    else:
        asyncio.run(on_a_loop())
