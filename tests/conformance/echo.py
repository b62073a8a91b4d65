"""A service of bytes whose handlers do as the test says, on any grpc.Server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

SERVICE = "conformance.v1.Echo"


class Echo(grpc.GenericRpcHandler):
    """Methods by name; each of the four kinds, bytes in and bytes out."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.release = threading.Event()
        self.cancelled = threading.Event()
        self.entered = threading.Semaphore(0)
        # A test's own, by the method's full name.
        self.handlers: dict[str, Any] = {}

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method in self.handlers:
            return self.handlers[details.method]
        name = details.method.rpartition("/")[2]
        behavior: Callable[..., Any] | None = getattr(self, name, None)
        if not details.method.startswith(f"/{SERVICE}/") or behavior is None:
            return None
        if name.startswith("Unary"):
            return grpc.unary_unary_rpc_method_handler(behavior)
        if name.startswith("Down"):
            return grpc.unary_stream_rpc_method_handler(behavior)
        if name.startswith("Up"):
            return grpc.stream_unary_rpc_method_handler(behavior)
        return grpc.stream_stream_rpc_method_handler(behavior)

    # unary-unary

    def UnaryEcho(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    def UnaryMetadata(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        got = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata([("x-initial", "one"), ("x-initial", "two"), ("x-bytes-bin", b"\x00\xff")])
        context.set_trailing_metadata(got)
        return request

    def UnaryAbort(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("x-why", "test")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())

    def UnaryAbortSwallowed(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            context.abort(grpc.StatusCode.DATA_LOSS, "swallowed")
        except Exception:
            pass
        raise RuntimeError("after the abort")

    def UnaryRaise(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        raise RuntimeError(request.decode())

    def UnaryCode(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details(request.decode())
        return b""

    def UnaryNone(self, request: bytes, context: grpc.ServicerContext) -> Any:
        return None

    def UnaryTime(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return repr(context.time_remaining()).encode()

    def UnaryWait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Until released or cancelled."""
        context.add_callback(self.cancelled.set)
        self.entered.release()
        while context.is_active() and not self.release.wait(0.01):
            pass
        return request

    def UnarySleep(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(float(request))
        return request

    # unary-stream

    def DownCount(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def DownRaise(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError(request.decode())

    def DownAbort(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        context.abort(grpc.StatusCode.ABORTED, request.decode())

    def DownForever(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        number = 0
        while True:
            number += 1
            self.events.append("sent")
            yield bytes(int(request))

    # stream-unary

    def UpJoin(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b",".join(requests)

    def UpEarly(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return next(requests)

    def UpNever(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Reads nothing until released."""
        self.entered.release()
        self.release.wait(20)
        return b"done"

    def UpBroken(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            for request in requests:
                self.events.append(request.decode())
        except Exception as error:
            self.events.append(type(error).__name__)
            self.cancelled.set()
            raise
        self.events.append("ended")
        self.cancelled.set()
        return b""

    # stream-stream

    def BothEcho(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests

    def BothHello(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata([("x-hello", "yes")])
        yield from requests
