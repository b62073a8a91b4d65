"""Calls that come over our wire, made again through a grpcio channel: bytes, metadata, deadline, status as they are.

Which of the four kinds a method is need not be known: on the wire each of them is a stream of messages in either
direction, some of which have one message only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

import grpc

from ipcd_client.expose.reflection import Reflection
from ipcd_client.facade import introspection
from ipcd_client.facade.requests import RequestIterator
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.rpc import deadline as deadlines
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.rpc.metadata import travels

_USER_AGENT: Final = "user-agent"  # grpcio sends its own
_DESCRIBE_TIMEOUT: Final = 5.0  # seconds


class Forwarder:
    """Into one channel, at most `most` calls at a time, of all services together."""

    def __init__(self, channel: grpc.Channel, most: int) -> None:
        self._channel: Any = channel  # its type stubs want to know the messages' types
        self._most = most
        self._free = threading.Semaphore(most)

    def run(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The handler of every method: forwards one call. Holds its thread for as long as that takes."""
        if not self._free.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._most} calls are being forwarded, which is the limit (--max-calls of ipcctl expose)",
            )
        try:
            yield from self._forwarded(method, requests, context)
        finally:
            self._free.release()

    def _forwarded(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        left = context.time_remaining()
        timeout = None if left == deadlines.FOREVER else left
        metadata = tuple(each for each in _own(context.invocation_metadata()) if each[0] != _USER_AGENT)
        try:
            if isinstance(requests, RequestIterator) and requests.only_one:
                # To the server it is the same; here, grpcio needs no thread to take requests from an iterator.
                call = self._channel.unary_stream(method)(next(requests), timeout=timeout, metadata=metadata)
            else:
                source = _Requests(requests)
                call = self._channel.stream_stream(method)(source, timeout=timeout, metadata=metadata)
                source.begun(call)
        except ValueError:  # from grpcio, for a channel that is closed
            context.abort(grpc.StatusCode.UNAVAILABLE, "this server is no longer exposed")
        if not context.add_callback(call.cancel):
            call.cancel()
        try:
            initial = call.initial_metadata()
            # An answer that fails at once has none; to others, none may be news too.
            if initial or call.is_active():
                context.send_initial_metadata(_own(initial))
            try:
                for response in call:  # noqa: UP028  grpcio's call is no generator: nothing is delegated to it
                    yield response
            except grpc.RpcError:
                pass  # it is the call itself, which has ended; how, is told below
            context.set_trailing_metadata(_own(call.trailing_metadata()))
            context.set_details(call.details())
            context.set_code(call.code())
        finally:
            # Where nobody reads on, this handler is closed at one of the messages.
            call.cancel()


def _own(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """Those entries that the programs sent."""
    return tuple((key, value) for key, value in metadata if travels(key))


class _Requests:
    """The requests, for grpcio's thread. If the caller goes in the middle of them, they must not just end: to the
    server that would be a caller who has said everything."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._begun = threading.Event()
        self._call: Any = None

    def begun(self, call: Any) -> None:
        """This is the call that they belong to."""
        self._call = call
        self._begun.set()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._requests)
        except grpc.RpcError:
            self._begun.wait()
            self._call.cancel()
            raise StopIteration from None


class Service(grpc.GenericRpcHandler):
    """All methods of one service, whatever they may be."""

    def __init__(self, name: str, forwarder: Forwarder) -> None:
        self._name = name
        self._forwarder = forwarder

    def service_name(self) -> str:
        """What it is registered as."""
        return self._name

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Any method of it."""
        method = handler_call_details.method
        if not method.startswith(f"/{self._name}/"):
            return None
        return grpc.stream_stream_rpc_method_handler(partial(self._forwarder.run, method))


class Description(grpc.ServerInterceptor):
    """Answers what the services are (`ipcctl call` asks it) from the server's reflection."""

    def __init__(self, reflection: Reflection) -> None:
        self._reflection = reflection
        self._handler = grpc.unary_unary_rpc_method_handler(
            self._describe, wire_pb2.DescribeRequest.FromString, wire_pb2.DescribeReply.SerializeToString
        )

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Takes the place of what a server tells of its own types."""
        if handler_call_details.method == introspection.DESCRIBE:
            return self._handler
        return continuation(handler_call_details)

    def _describe(self, request: wire_pb2.DescribeRequest, context: grpc.ServicerContext) -> wire_pb2.DescribeReply:
        try:
            files = self._reflection.files(request.service, min(_DESCRIBE_TIMEOUT, context.time_remaining()))
        except CallFailed as error:
            context.abort(error.code, f"the exposed server's reflection: {error}")
        return wire_pb2.DescribeReply(files=files)
