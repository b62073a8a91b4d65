"""A program that answers, and writes down what it has seen: python server.py NAME SOCKET FILE threads|loop

A line of the file is the server's name, its process id, and the call's number. It ends well on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
from faults.work import KINDS, SERVICE, answer_to, answers_to, number_of

GRACE = 5.0  # seconds


class Seen:
    """What this server has seen."""

    def __init__(self, name: str, file: str) -> None:
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._who = f"{name} {os.getpid()}"

    def __call__(self, request: bytes) -> bytes:
        """Writes a call down by its first request, which it gives back."""
        os.write(self._fd, f"{self._who} {number_of(request)}\n".encode())
        return request


class OnThreads(grpc.GenericRpcHandler):
    """The four methods, named as their kinds."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: Any) -> Any:
        kind = details.method.removeprefix(f"/{SERVICE}/")
        if kind not in KINDS:
            return None
        return getattr(grpc, f"{kind}_rpc_method_handler")(getattr(self, kind))

    def unary_unary(self, request: bytes, _context: Any) -> Any:
        return answer_to(self._seen(request), 0)

    def unary_stream(self, request: bytes, _context: Any) -> Any:
        yield from answers_to("unary_stream", [self._seen(request)])

    def stream_unary(self, requests: Any, _context: Any) -> Any:
        (answer,) = answers_to("stream_unary", [self._seen(next(requests)), *requests])
        return answer

    def stream_stream(self, requests: Iterator[bytes], _context: Any) -> Any:
        for index, request in enumerate(requests):
            if index == 0:
                self._seen(request)
            yield answer_to(request, index)


class OnALoop(OnThreads):
    """The same as coroutines."""

    async def unary_unary(self, request: bytes, _context: Any) -> bytes:
        return answer_to(self._seen(request), 0)

    async def unary_stream(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for answer in answers_to("unary_stream", [self._seen(request)]):
            yield answer

    async def stream_unary(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        taken = [self._seen(await anext(aiter(requests)))]
        taken += [request async for request in requests]
        (answer,) = answers_to("stream_unary", taken)
        return answer

    async def stream_stream(self, requests: Any, _context: Any) -> AsyncIterator[bytes]:
        index = 0
        async for request in requests:
            if index == 0:
                self._seen(request)
            yield answer_to(request, index)
            index += 1


def on_threads(name: str, path: str, seen: Seen) -> None:
    server = ipcd_client.server(handlers=(OnThreads(seen),), name=name, node=path)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(GRACE))
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


async def on_a_loop(name: str, path: str, seen: Seen) -> None:
    server = ipcd_client.aio.server(handlers=(OnALoop(seen),), name=name, node=path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print("ready", flush=True)
    await stop.wait()
    await server.stop(GRACE)


def main(name: str, path: str, file: str, how: str) -> None:
    """See the module."""
    seen = Seen(name, file)
    if how == "threads":
        on_threads(name, path, seen)
    else:
        asyncio.run(on_a_loop(name, path, seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
