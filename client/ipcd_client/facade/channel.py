"""`grpc.Channel`, whose calls find their servers through the node."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Self, TypeVar

import grpc

from ipcd_client.facade import configured, introspection
from ipcd_client.facade.callbacks import Callbacks
from ipcd_client.facade.connectivity import Callback, Connectivity
from ipcd_client.facade.exchange import Exchange
from ipcd_client.facade.multicallable import Method, StreamStream, StreamUnary, UnaryStream, UnaryUnary
from ipcd_client.node import attach
from ipcd_client.node import target as targets
from ipcd_client.node.paths import default_socket
from ipcd_client.node.router import NodeRouter, Route, Router
from ipcd_client.pb.ipcd.v1 import wire_pb2
from ipcd_client.rpc import service_config, status
from ipcd_client.rpc.options import Options

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None
M = TypeVar("M", bound=Method)


class Channel(grpc.Channel):
    """See `ipcd_client.channel`."""

    def __init__(
        self,
        target: str,
        *,
        node: str | None,
        transport: str,
        options: Sequence[tuple[str, Any]] | None,
        router: type[Router] | None = None,
    ) -> None:
        self._closed = True  # until it is made
        self.target = target
        self.options = Options.parse(options)
        self.service_config = service_config.given(self.options.service_config, target)
        throttling = self.service_config.throttling
        self.throttle = None if throttling is None else configured.SharedThrottle(throttling)
        settings = self.options.settings(accept_calls=False)
        path = node or default_socket()
        kind = router or (NodeRouter if target == targets.NODE_API else Router)
        parsed = targets.Target("", "") if target == targets.NODE_API else targets.parse(target)
        self.router = kind(path, parsed, transport, settings, self.options.spread)
        self.callbacks = Callbacks()
        self.seeking: set[Exchange] = set()
        self._connectivity = Connectivity(self.router.attachment())
        self._closed = False

    # -- grpc.Channel -----------------------------------------------------------------------------

    def subscribe(self, callback: Callback, try_to_connect: bool | None = None) -> None:
        self._connectivity.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callback) -> None:
        self._connectivity.unsubscribe(callback)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        return self._made(UnaryUnary, configured.UnaryUnary, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        return self._made(UnaryStream, configured.UnaryStream, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        return self._made(StreamUnary, configured.StreamUnary, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        return self._made(StreamStream, configured.StreamStream, method, request_serializer, response_deserializer)

    def _made(
        self,
        plain: type[M],
        configured: Callable[..., M],
        method: str | bytes,
        serialize: Serializer,
        deserialize: Deserializer,
    ) -> M:
        path = method if isinstance(method, str) else method.decode("utf-8")
        config = self.service_config.of(path)
        if config is None:
            return plain(self, path, serialize, deserialize)
        return configured(self, path, serialize, deserialize, config)

    def close(self) -> None:
        """Ends the channel. Calls under way fail CANCELLED."""
        if self._closed:
            return
        self._closed = True
        self._connectivity.close()
        self.router.close()
        # Those on a connection have ended with it.
        for exchange in list(self.seeking):
            exchange.end(grpc.StatusCode.CANCELLED, status.CHANNEL_CLOSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end, threads that will never run again may hold any lock.
        if self._closed or sys.is_finalizing():
            return
        if self.router.locked or self._connectivity.locked:
            # The collector runs anywhere, also where this thread holds the lock itself.
            threading.Thread(target=self.close, name="ipcd-drop", daemon=True).start()
        else:
            self.close()

    # -- more than grpc's -------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises:
        ValueError: the channel was closed; as grpcio does.
        """
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    def route(self, service: str, timeout: float | None = None, *, wait_for_ready: bool = False) -> Route:
        """The connection that calls of `service` take, made if there is none yet: with whom, over what, and why.

        Raises:
            IpcdError: there is no server, or no connection with it.
        """
        self.check_open()
        return self.router.connect(service, None if timeout is None else monotonic() + timeout, wait_for_ready)

    def describe(self, service: str, timeout: float | None = None) -> list[bytes]:
        """What the server that calls of `service` go to tells of its types: serialized FileDescriptorProtos,
        dependencies first.

        Raises:
            IpcdError: there is no server, or it does not tell.
        """
        deadline = None if timeout is None else monotonic() + timeout
        connection = self.route(service, timeout).connection
        request = wire_pb2.DescribeRequest(service=service)
        # Over the connection of that service: as a call of its own, it would be routed by its own service's name.
        reply, fds = attach.call(connection, introspection.DESCRIBE, request, wire_pb2.DescribeReply, deadline)
        for fd in fds:
            fd.close()
        return list(reply.files)
