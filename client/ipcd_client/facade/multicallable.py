"""The four kinds of method that a channel gives to stubs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.facade.call import Call, Deserializer, StreamCall, response
from ipcd_client.facade.exchange import ATTEMPTS, Exchange, Failed, Plan
from ipcd_client.facade.feeder import Feeder
from ipcd_client.facade.messages import serialized
from ipcd_client.facade.shapes import StreamStreamBase, StreamUnaryBase, UnaryStreamBase, UnaryUnaryBase
from ipcd_client.frame.codec import JOIN_BELOW
from ipcd_client.frame.settings import RESET_DEADLINE
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.channel import Channel

log = logging.getLogger("ipcd_client")

_NO_METADATA: Final[tuple[tuple[str, str | bytes], ...]] = ()


class Method:
    """What the four have in common."""

    def __init__(
        self,
        channel: Channel,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Deserializer,
    ) -> None:
        self._channel = channel
        self._method = method
        # A method may lack its slash; then it belongs to no service that could be found.
        self._service = method[1:].rpartition("/")[0] if method.startswith("/") else method.rpartition("/")[0]
        self._serialize = serialize
        self._deserialize = deserialize
        self._router = channel.router
        self._pools = channel.router.pools
        self._max_receive = channel.options.max_receive
        self._max_send = channel.options.max_send
        self._max_metadata = channel.options.max_metadata
        self._plain_send = plain_send(self._max_send)

    def _checked(self, metadata: Any, credentials: Any) -> tuple[tuple[str, str | bytes], ...]:
        if credentials is not None:
            raise Failed(
                grpc.StatusCode.UNAUTHENTICATED,
                "Established channel does not have a sufficient security level to transfer call credential.",
            )
        try:
            return md.checked(metadata, self._max_metadata)
        except md.InvalidMetadata as error:
            raise Failed(grpc.StatusCode.INTERNAL, str(error)) from None
        except UsageError as error:
            raise Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None

    def _request(self, request: Any) -> bytes:
        data = serialized(request, self._serialize)
        if data is None:
            # Raised whatever the way of calling, as grpcio does: there is no call yet.
            raise self._failed(Failed(grpc.StatusCode.INTERNAL, status.SERIALIZE_REQUEST_FAILED))
        return data

    def _sendable(self, data: bytes | None, timeout: float | None) -> None:
        if data is not None and 0 <= self._max_send < len(data):
            raise Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), self._max_send))
        if timeout is not None and not timeout > 0:
            raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED)

    def _connection(self, deadline: float | None, wait: bool) -> Connection:
        connection = self._router.usable(self._service)
        if connection is not None:
            return connection
        self._channel.check_open()
        try:
            return self._router.connect(self._service, deadline, wait).connection
        except IpcdError as error:
            raise Failed(error.code, str(error)) from error

    def _connection_later(self, wait: bool) -> Callable[[float | None], Connection]:
        """How a thread of the call's own gets a connection."""

        def connect(deadline: float | None) -> Connection:
            try:
                return self._connection(deadline, wait)
            except ValueError as error:
                raise Failed(grpc.StatusCode.CANCELLED, status.CHANNEL_CLOSED) from error

        return connect

    def _begin(
        self,
        state: ClientCall,
        data: bytes | None,
        timeout: float | None,
        deadline: float | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        wait: bool,
        first: Connection | None = None,
    ) -> Connection:
        """Starts the call on a connection, `first` if given; on another one, where that turns out not to take it."""
        attempt = 0
        while True:
            attempt += 1
            connection = first if attempt == 1 and first is not None else self._connection(deadline, wait)
            left = timeout if attempt == 1 or deadline is None else max(0.0, deadline - monotonic())
            connection.start(state, timeout=left, metadata=metadata, message=data, end=data is not None)
            if not state.refused or attempt >= ATTEMPTS or state.code is not grpc.StatusCode.UNAVAILABLE:
                return connection
            state.code, state.refused, state.initial_metadata = None, False, None

    def _state(self) -> ClientCall:
        return ClientCall(self._method, self._max_receive)

    def _failed(self, error: Failed) -> Call:
        """A call that has failed before it began."""
        state = self._state()
        state.fail(error.code, error.details)
        return Call(Exchange(state), self._deserialize)

    def _launch(
        self,
        kind: type[Call],
        request: Any,
        requests: Feeder | None,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any:
        """Starts a call without waiting for its end, nor for a server."""
        self._channel.check_open()
        deadline = None if timeout is None else monotonic() + timeout
        data = None if requests is not None else self._request(request)
        state = self._state()
        try:
            sent = self._checked(metadata, credentials)
            self._sendable(data, timeout)
        except Failed as error:
            state.fail(error.code, error.details)
            return kind(Exchange(state, deadline=deadline), self._deserialize)
        plan = self._plan(bool(wait_for_ready), sent, data, requests)
        streams = issubclass(kind, StreamCall)
        exchange = Exchange(state, self._router.usable(self._service), deadline, streams=streams, plan=plan)
        call = kind(exchange, self._deserialize)
        exchange.begin(timeout)
        return call

    def _plan(
        self, wait: bool, metadata: tuple[tuple[str, str | bytes], ...], data: bytes | None, requests: Feeder | None
    ) -> Plan:
        """How a call is started, by whichever thread."""
        channel = self._channel
        connect = self._connection_later(wait)
        return Plan(
            self._state, connect, metadata, data, requests, channel.callbacks, channel.seeking, channel.check_open
        )

    def _feeder(self, requests: Any) -> Feeder:
        return Feeder(requests, self._serialize, self._max_send)


def plain_send(limit: int) -> int:
    """The largest request that may go the shortest way, in bytes; `limit`: of what may be sent at all, -1 for none."""
    return min(JOIN_BELOW, limit) if limit >= 0 else JOIN_BELOW


class UnaryUnary(Method, UnaryUnaryBase):
    """One request, one response."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        begun: Begun | None = None
        pool = self._pools.get(self._service)
        if pool is not None and not metadata and credentials is None and (timeout is None or timeout > 0):
            # The shortest way. What is out of the ordinary is left to the general one.
            data = _plain(request, self._serialize, self._plain_send)
            route = (pool.only or pool.pick()) if data is not None else None
            if route is not None and data is not None and (route[0].fresh() or self._router.refresh(route[0])):
                connection = route[0]
                deadline = None if timeout is None else monotonic() + timeout
                answer = connection.ask(self._method, data, timeout, self._max_receive)
                if isinstance(answer, bytes):
                    try:
                        message = answer if self._deserialize is None else self._deserialize(answer)
                    except Exception:
                        log.exception(status.DESERIALIZE_RESPONSE_FAILED)
                        message = None
                    if message is not None:
                        return message
                    raise self._failed(Failed(grpc.StatusCode.INTERNAL, status.DESERIALIZE_RESPONSE_FAILED))
                begun = Begun(connection, answer, data, deadline)
        state, last = self._blocking(request, timeout, metadata, credentials, wait_for_ready, begun)
        message = response(state, self._deserialize)
        if message is not None:
            return message
        raise self._ended(state, last)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Call]:
        call = self._ended(*self._blocking(request, timeout, metadata, credentials, wait_for_ready, None))
        return call.result(), call

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._launch(Call, request, None, timeout, metadata, credentials, wait_for_ready)

    def _ended(self, state: ClientCall, connection: Connection | None) -> Call:
        return Call(Exchange(state, connection), self._deserialize)

    def _blocking(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        begun: Begun | None,
    ) -> tuple[ClientCall, Connection | None]:
        """Runs the call to its end, `begun` or not. This thread sends, waits and reads."""
        state = self._state()
        connection: Connection | None = None
        try:
            if begun is not None:
                data, deadline, sent = begun.data, begun.deadline, _NO_METADATA
            else:
                self._channel.check_open()
                data = self._request(request)
                sent = self._checked(metadata, credentials) if metadata or credentials else _NO_METADATA
                self._sendable(data, timeout)
                deadline = None if timeout is None else monotonic() + timeout
            for attempt in range(ATTEMPTS):
                if begun is not None and begun.call is not None and attempt == 0:
                    connection, state = begun.connection, begun.call
                else:
                    # The one whose turn it is: only its next call can be of the shortest kind.
                    first = begun.connection if begun is not None and attempt == 0 else None
                    connection = self._begin(state, data, timeout, deadline, sent, bool(wait_for_ready), first)
                if state.code is None:
                    finish(connection, state, deadline)
                if not state.refused or state.code is not grpc.StatusCode.UNAVAILABLE:
                    break
                # No handler has seen it: the server is going away. Elsewhere, then.
                connection.retired = True
                retry = self._state()
                retry.details = state.details
                state = retry
            if state.code is None:
                state.fail(grpc.StatusCode.UNAVAILABLE, state.details)
        except Failed as error:
            state.fail(error.code, error.details)
        return state, connection


class Begun(NamedTuple):
    """A call that was begun in the shortest way, and needs more; without `call`, nothing was sent."""

    connection: Connection
    call: ClientCall | None
    data: bytes
    deadline: float | None


def _plain(request: Any, serialize: Callable[[Any], bytes] | None, most: int) -> bytes | None:
    """The request's bytes, if there is nothing to be said of them."""
    try:
        data = request if serialize is None else serialize(request)
    except Exception:  # noqa: BLE001  # it is serialized again, and then told
        return None
    return data if data.__class__ is bytes and len(data) <= most else None


def finish(connection: Connection, state: ClientCall, deadline: float | None) -> None:
    """Waits for the end of a call, which the deadline brings at the latest."""
    try:
        if not connection.wait(state.stream, lambda: state.code is not None, deadline):
            connection.end(state, grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)
    except BaseException:
        # Ctrl-C: nobody waits for the answer any more.
        connection.end(state, grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED)
        raise


class UnaryStream(Method, UnaryStreamBase):
    """One request, a stream of responses."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._launch(StreamCall, request, None, timeout, metadata, credentials, wait_for_ready)


class StreamUnary(Method, StreamUnaryBase):
    """A stream of requests, one response."""

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.with_call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Call]:
        call = self.future(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        try:
            return call.result(), call
        except BaseException:
            call.cancel()
            raise

    def future(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        requests = self._feeder(request_iterator)
        return self._launch(Call, None, requests, timeout, metadata, credentials, wait_for_ready)


class StreamStream(Method, StreamStreamBase):
    """A stream of requests, a stream of responses."""

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        requests = self._feeder(request_iterator)
        return self._launch(StreamCall, None, requests, timeout, metadata, credentials, wait_for_ready)
