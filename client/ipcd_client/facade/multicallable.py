"""The four kinds of method that a channel gives to stubs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.facade.call import Call, Deserializer, StreamCall, response, send_requests, serialized, unparsed
from ipcd_client.facade.shapes import StreamStreamBase, StreamUnaryBase, UnaryStreamBase, UnaryUnaryBase
from ipcd_client.frame.codec import JOIN_BELOW
from ipcd_client.frame.settings import RESET_DEADLINE
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.channel import Channel

# A call that no server has seen is tried again elsewhere, so often at most.
_ATTEMPTS: Final = 3
_NO_METADATA: Final[tuple[tuple[str, str | bytes], ...]] = ()


class Failed(Exception):
    """The call has failed before it was sent: code and details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Method:
    """What the four have in common."""

    def __init__(
        self,
        channel: Channel,
        method: str | bytes,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Deserializer,
    ) -> None:
        if not isinstance(method, str):
            method = method.decode("utf-8")
        self._channel = channel
        self._method = method
        # A method may lack its slash; then it belongs to no service that could be found.
        self._service = method[1:].rpartition("/")[0] if method.startswith("/") else method.rpartition("/")[0]
        self._serialize = serialize
        self._deserialize = deserialize
        self._router = channel.router
        self._routes = channel.router.routes
        self._max_receive = channel.options.max_receive
        self._max_send = channel.options.max_send
        self._max_metadata = channel.options.max_metadata
        self._plain_send = min(JOIN_BELOW, self._max_send) if self._max_send >= 0 else JOIN_BELOW

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
            raise Failed(grpc.StatusCode.INTERNAL, status.SERIALIZE_REQUEST_FAILED)
        if 0 <= self._max_send < len(data):
            raise Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), self._max_send))
        return data

    def _connection(self, deadline: float | None, wait: bool) -> Connection:
        route = self._routes.get(self._service)
        if route is not None:
            route.connection.refresh()
            if route.connection.usable:
                return route.connection
        self._channel.check_open()
        try:
            return self._router.connect(self._service, deadline, wait).connection
        except IpcdError as error:
            raise Failed(error.code, str(error)) from error

    def _begin(
        self,
        state: ClientCall,
        data: bytes | None,
        timeout: float | None,
        deadline: float | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        wait: bool,
    ) -> Connection:
        """Starts the call on a connection; on another one, where the first turns out not to take it."""
        attempt = 0
        while True:
            attempt += 1
            connection = self._connection(deadline, wait)
            left = timeout if attempt == 1 or deadline is None else max(0.0, deadline - monotonic())
            connection.start(state, timeout=left, metadata=metadata, message=data, end=data is not None)
            if not state.refused or attempt >= _ATTEMPTS or state.code is not grpc.StatusCode.UNAVAILABLE:
                return connection
            state.code, state.refused, state.initial_metadata = None, False, None

    def _state(self) -> ClientCall:
        return ClientCall(self._method, self._max_receive)

    def _launch(
        self,
        kind: type[Call],
        request: Any,
        requests: Iterator[Any] | None,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any:
        """Starts a call without waiting for its end."""
        self._channel.check_open()
        deadline = None if timeout is None else monotonic() + timeout
        state = self._state()
        wait = bool(wait_for_ready)
        try:
            sent = self._checked(metadata, credentials)
            data = None if requests is not None else self._request(request)
            if timeout is not None and timeout <= 0:
                raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED)
        except Failed as error:
            state.fail(error.code, error.details)
            return kind(state, None, deadline, self._deserialize)
        route = self._routes.get(self._service)
        if wait and (route is None or not route.connection.usable):
            call = kind(state, None, deadline, self._deserialize)
            arguments = (call, state, data, deadline, sent, requests)
            threading.Thread(target=self._launch_later, args=arguments, name="ipcd-connect", daemon=True).start()
            return call
        try:
            connection = self._begin(state, data, timeout, deadline, sent, False)
        except Failed as error:
            state.fail(error.code, error.details)
            return kind(state, None, deadline, self._deserialize)
        call = kind(state, connection, deadline, self._deserialize)
        self._feed(call, connection, requests, deadline)
        return call

    def _launch_later(
        self,
        call: Call,
        state: ClientCall,
        data: bytes | None,
        deadline: float | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        requests: Iterator[Any] | None,
    ) -> None:
        try:
            timeout = None if deadline is None else max(0.0, deadline - monotonic())
            connection = self._connection(deadline, True)
            if state.code is not None:
                return
            timeout = None if deadline is None else max(0.0, deadline - monotonic())
            connection.start(state, timeout=timeout, metadata=metadata, message=data, end=data is not None)
        except Failed as error:
            call.failed(error.code, error.details)
            return
        except ValueError as error:
            call.failed(grpc.StatusCode.CANCELLED, str(error))
            return
        call.connected(connection)
        self._feed(call, connection, requests, deadline)

    def _feed(self, call: Call, connection: Connection, requests: Iterator[Any] | None, deadline: float | None) -> None:
        if requests is None or call.state.code is not None:
            return
        arguments = (call.state, connection, requests, self._serialize, deadline, self._max_send)
        threading.Thread(target=send_requests, args=arguments, name="ipcd-requests", daemon=True).start()

    def _iterator(self, requests: Any) -> Iterator[Any]:
        try:
            return iter(requests)
        except TypeError:
            return _broken(requests)


def _broken(requests: Any) -> Iterator[Any]:
    if requests is not None:
        raise TypeError(f"{type(requests).__name__} is not an iterator of requests")
    yield from ()


class UnaryUnary(_Method, UnaryUnaryBase):
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
        begun: _Begun | None = None
        route = self._routes.get(self._service)
        if route is not None and not metadata and credentials is None and (timeout is None or timeout > 0):
            # The shortest way. What is out of the ordinary is left to the general one.
            connection = route.connection
            data = _plain(request, self._serialize, self._plain_send) if connection.fresh() else None
            if data is not None:
                deadline = None if timeout is None else monotonic() + timeout
                answer = connection.ask(self._method, data, timeout, self._max_receive)
                if isinstance(answer, bytes):
                    try:
                        return answer if self._deserialize is None else self._deserialize(answer)
                    except Exception:  # noqa: BLE001  # whatever the program's code raises; it is logged
                        raise self._ended(unparsed(self._state()), connection) from None
                begun = _Begun(connection, answer, data, deadline)
        state, last = self._blocking(request, timeout, metadata, credentials, wait_for_ready, begun)
        if state.code is grpc.StatusCode.OK and state.messages:
            result = response(state, self._deserialize)
            if state.code is grpc.StatusCode.OK:
                return result
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
        _answerless(state)
        return Call(state, connection, None, self._deserialize)

    def _blocking(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        begun: _Begun | None,
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
                deadline = None
                if timeout is not None:
                    if timeout <= 0:
                        raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED)
                    deadline = monotonic() + timeout
            for attempt in range(_ATTEMPTS):
                if begun is not None and begun.call is not None and attempt == 0:
                    connection, state = begun.connection, begun.call
                else:
                    connection = self._begin(state, data, timeout, deadline, sent, bool(wait_for_ready))
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


class _Begun(NamedTuple):
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


def _answerless(state: ClientCall) -> None:
    """A unary call that ended well without a response has not ended well."""
    if state.code is grpc.StatusCode.OK and not state.messages:
        state.code = grpc.StatusCode.INTERNAL
        state.details = "the server sent no response"


class UnaryStream(_Method, UnaryStreamBase):
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


class StreamUnary(_Method, StreamUnaryBase):
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
        requests = self._iterator(request_iterator)
        return self._launch(Call, None, requests, timeout, metadata, credentials, wait_for_ready)


class StreamStream(_Method, StreamStreamBase):
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
        requests = self._iterator(request_iterator)
        return self._launch(StreamCall, None, requests, timeout, metadata, credentials, wait_for_ready)
