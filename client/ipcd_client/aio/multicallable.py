"""The four kinds of method that a `grpc.aio.Channel` gives to stubs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc

from ipcd_client.aio.call import (
    Call,
    Deserializer,
    Serializer,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from ipcd_client.aio.exchange import Exchange
from ipcd_client.aio.interceptors import intercepted
from ipcd_client.errors import UsageError
from ipcd_client.frame.codec import Metadata
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status

if TYPE_CHECKING:
    from ipcd_client.aio.channel import Channel

    StreamUnaryBase = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    StreamStreamBase = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:
    # Those of grpcio 1.72 take no parameters at run time.
    StreamUnaryBase = grpc.aio.StreamUnaryMultiCallable
    StreamStreamBase = grpc.aio.StreamStreamMultiCallable


class Method:
    """What the four have in common: how a call of it is begun."""

    kind: type[Call]
    request_streaming = False
    response_streaming = False

    def __init__(
        self,
        channel: Channel,
        method: str | bytes,
        serialize: Serializer,
        deserialize: Deserializer,
        interceptors: Sequence[Any],
    ) -> None:
        self._channel = channel
        self.method = method if isinstance(method, str) else method.decode("utf-8")
        self._service = self.method.removeprefix("/").rpartition("/")[0]
        self._config = channel.service_config.of(self.method)
        self._serialize = serialize
        self._deserialize = deserialize
        self._interceptors = interceptors

    def call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> Any:
        """Begins a call, through the interceptors if there are any."""
        self._channel.check_open()
        if self._interceptors:
            return intercepted(self, self._interceptors, request, timeout, metadata, credentials, wait_for_ready)
        return self.begin(self.method, request, timeout, metadata, credentials, wait_for_ready)

    def begin(
        self,
        method: str,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> Any:
        """Begins a call, of this method or of what interceptors made of it.

        Raises:
            grpc.aio.UsageError: there are credentials; as of grpc.aio on a channel that is not secure.
        """
        if credentials is not None:
            raise grpc.aio.UsageError("Call credentials are only valid on secure channels")
        channel = self._channel
        service, config = self._service, self._config
        if method is not self.method:
            service = method.removeprefix("/").rpartition("/")[0]
            config = channel.service_config.of(method)
        max_send = channel.options.max_send
        if config is not None:
            timeout, wait_for_ready = config.within(timeout), config.waits(wait_for_ready)
            max_send = config.sends(max_send)
        broken: Exception | None = None
        failure: tuple[grpc.StatusCode, str] | None = None
        data: bytes | None = None
        sent: Metadata = ()
        try:
            if metadata:
                sent = md.checked(metadata, channel.options.max_metadata)
            if not self.request_streaming:
                data = self._serialized(request)
                if 0 <= max_send < len(data):
                    failure = grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), max_send)
        except md.InvalidMetadata as error:
            failure = grpc.StatusCode.INTERNAL, str(error)
        except UsageError as error:
            failure = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except Exception as error:  # noqa: BLE001  # the program's own, told to whoever waits for the call
            broken = error
            failure = grpc.StatusCode.INTERNAL, str(error)
        if config is not None and config.error:
            failure = grpc.StatusCode.INVALID_ARGUMENT, config.error
        exchange = Exchange(channel, method, service, data, timeout, sent, bool(wait_for_ready), config)
        call: Any = self.kind(exchange, self._serialize, self._deserialize, broken)
        if failure is not None:
            exchange.end(*failure)
        else:
            exchange.begin()
        if self.request_streaming:
            call.feed(request, max_send)
        return call

    def _serialized(self, request: Any) -> bytes:
        data = request if self._serialize is None else self._serialize(request)
        if not isinstance(data, bytes):
            raise TypeError(f"the serializer returned {type(data).__name__}, not bytes")
        return data


class UnaryUnary(Method, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """One request, one response."""

    kind = UnaryUnaryCall

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002  messages are not compressed
    ) -> Any:
        return self.call(request, timeout, metadata, credentials, wait_for_ready)


class UnaryStream(Method, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    """One request, a stream of responses."""

    kind = UnaryStreamCall
    response_streaming = True

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002  messages are not compressed
    ) -> Any:
        return self.call(request, timeout, metadata, credentials, wait_for_ready)


class StreamUnary(Method, StreamUnaryBase):
    """A stream of requests, one response."""

    kind = StreamUnaryCall
    request_streaming = True

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002  messages are not compressed
    ) -> Any:
        return self.call(request_iterator, timeout, metadata, credentials, wait_for_ready)


class StreamStream(Method, StreamStreamBase):
    """A stream of requests, a stream of responses."""

    kind = StreamStreamCall
    request_streaming = True
    response_streaming = True

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002  messages are not compressed
    ) -> Any:
        return self.call(request_iterator, timeout, metadata, credentials, wait_for_ready)
