"""What a stub's call gives back: at once `grpc.Call`, `grpc.Future`, the raised error, and for streams an iterator."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import grpc

from ipcd_client.errors import IpcdError, WireTimeout
from ipcd_client.facade.messages import parsed
from ipcd_client.facade.shapes import Future
from ipcd_client.frame.codec import Payload
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE
from ipcd_client.rpc import deadline as deadlines
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.sync.connection import Connection

log = logging.getLogger("ipcd_client")

Deserializer = Callable[[bytes], Any] | None


class Call(grpc.RpcError, grpc.Call, Future):
    """One call. Its own thread-safety is that of its connection: any method from any thread.

    `connection` is None while a call with `wait_for_ready` waits for a server; `connected` ends that.
    """

    def __init__(
        self,
        state: ClientCall,
        connection: Connection | None,
        deadline: float | None,
        deserialize: Deserializer,
    ) -> None:
        super().__init__()
        self.state = state
        self._connection = connection
        self._deadline = deadline
        self._deserialize = deserialize
        self._lock = threading.Lock()
        # Only a call that waits for a server needs one.
        self._connected = threading.Event() if connection is None and state.code is None else None
        self._callbacks: list[Callable[[], None]] = []
        self._response: Any = None
        self._deserialized = False
        self._cancelled = False

    # -- the connection ---------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """The call was started there."""
        self._connection = connection
        self._set_connected()
        if self._callbacks:
            connection.watch(self.state, self._deadline)

    def _set_connected(self) -> None:
        if self._connected is not None:
            self._connected.set()

    def failed(self, code: grpc.StatusCode, details: str) -> None:
        """No connection was to be had."""
        self.state.fail(code, details)
        self._set_connected()
        self.progressed()

    def progressed(self) -> None:
        """An event of the call was taken in. (User)"""
        if self._callbacks and self.state.code is not None:
            with self._lock:
                callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                _run(callback)

    def _await(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `ready()` or the end of the call. False if `timeout` seconds passed first."""
        state = self.state
        until = deadlines.sooner(self._deadline, None if timeout is None else monotonic() + timeout)
        while not (ready() or state.code is not None):
            if self._connection is None and self._connected is not None:
                left = deadlines.left(until, monotonic())
                self._connected.wait(left)
            elif self._connection is not None:
                self._connection.wait(state.stream, lambda: ready() or state.code is not None, until)
            ended = ready() or state.code is not None
            if not ended and until is not None and monotonic() >= until and not self._expire():
                return False
        return True

    def _expire(self) -> bool:
        """Ends the call if its deadline has passed; True if it has ended."""
        if self.state.code is None and self._deadline is not None and monotonic() >= self._deadline:
            self._end(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)
        return self.state.code is not None

    def _end(self, code: grpc.StatusCode, details: str, reset: int = RESET_CANCEL) -> bool:
        if self._connection is not None:
            return self._connection.end(self.state, code, details, reset)
        if self.state.fail(code, details):
            self._set_connected()
            self.progressed()
            return True
        return False

    def _look(self) -> bool:
        """Takes in what has come. True if the call has ended."""
        if self.state.code is None and self._connection is not None:
            self._connection.look()
        return self._expire()

    # -- grpc.RpcContext --------------------------------------------------------------------------

    def is_active(self) -> bool:
        return not self._look()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio gives None too
        return deadlines.left(self._deadline, monotonic())

    def cancel(self) -> bool:
        self._look()
        if self._end(grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED):
            self._cancelled = True
            return True
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return self._add(callback)

    def _add(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self.state.code is not None:
                return False
            self._callbacks.append(callback)
            # From here on the connection keeps this object. Without callbacks it does not, so that a stream which the
            # program drops is collected, and so cancelled.
            self.state.user = self
        connection = self._connection
        if connection is not None:
            connection.watch(self.state, self._deadline)
        if self._look_done():
            # It ended meanwhile, perhaps before the callback was in the list.
            self.progressed()
        return True

    def _look_done(self) -> bool:
        return self.state.code is not None

    # -- grpc.Call --------------------------------------------------------------------------------

    def initial_metadata(self) -> md.Metadata:
        self._await(lambda: self.state.initial_metadata is not None)
        return self.state.initial_metadata or ()

    def trailing_metadata(self) -> md.Metadata:  # type: ignore[override]  # namedtuples of our own
        self._await(_never)
        return self.state.trailing_metadata

    def code(self) -> grpc.StatusCode:
        self._await(_never)
        assert self.state.code is not None
        return self.state.code

    def details(self) -> str:
        self._await(_never)
        return self.state.details

    def debug_error_string(self) -> str:
        """The text in one line."""
        return f"ipcd: {self.state.method} on {self._peer()}: {self.state.details}"

    def _peer(self) -> str:
        return self._connection.wire.peer() if self._connection is not None else "no connection"

    # -- grpc.Future ------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self._look()

    def done(self) -> bool:
        return self._look()

    def result(self, timeout: float | None = None) -> Any:
        """The response. Raises itself, if the call failed."""
        self._finished(timeout)
        state = self.state
        if state.code is grpc.StatusCode.OK:
            self._parse()
        if state.code is grpc.StatusCode.OK:
            return self._response
        if self._cancelled:
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Exception | None:
        self._finished(timeout)
        if self.state.code is grpc.StatusCode.OK:
            self._parse()
        if self.state.code is grpc.StatusCode.OK:
            return None
        if self._cancelled:
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is None:
            return None
        try:
            raise error
        except grpc.RpcError as raised:
            return raised.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        def callback() -> None:
            fn(self)

        if not self._add(callback):
            _run(callback)

    def _finished(self, timeout: float | None) -> None:
        if not self._await(_never, timeout):
            raise grpc.FutureTimeoutError

    def _parse(self) -> None:
        """The response of a unary call, once."""
        with self._lock:
            if self._deserialized:
                return
            self._deserialized = True
        state = self.state
        if state.messages:
            self._response = response(state, self._deserialize)

    # -- the error --------------------------------------------------------------------------------

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        state = self.state
        if state.code is None:
            return f"<{type(self).__name__} of {state.method} that is running>"
        if state.code is grpc.StatusCode.OK:
            return f"<{type(self).__name__} of {state.method} that ended with OK>"
        return (
            f"<{type(self).__name__} of {state.method} that ended with:\n"
            f"\tstatus = {state.code}\n"
            f'\tdetails = "{state.details}"\n'
            f"\tpeer = {self._peer()}\n>"
        )


class StreamCall(Call):
    """A call with a stream of responses."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        state = self.state
        if self._deadline is not None and state.code is None and monotonic() >= self._deadline:
            self._expire()
            state.messages.clear()
        if not state.messages and state.code is None:
            try:
                self._await(lambda: bool(state.messages))
            except BaseException:
                self.cancel()
                raise
        if state.messages and not self._cancelled:
            connection = self._connection
            data = connection.take(state) if connection is not None else state.messages.popleft()[0]
            message = parse(data, self._deserialize)
            if message is not _FAILED:
                return message
            self._fail_parsing()
        if state.code is grpc.StatusCode.OK:
            raise StopIteration
        raise self

    next = __next__

    def _fail_parsing(self) -> None:
        if not self._end(grpc.StatusCode.INTERNAL, status.DESERIALIZE_RESPONSE_FAILED):
            self.state.messages.clear()
            self.state.code = grpc.StatusCode.INTERNAL
            self.state.details = status.DESERIALIZE_RESPONSE_FAILED

    def result(self, timeout: float | None = None) -> Any:
        """Itself, once it has ended well; as grpcio."""
        self._finished(timeout)
        if self.state.code is grpc.StatusCode.OK:
            return self
        if self._cancelled:
            raise grpc.FutureCancelledError
        raise self

    def _parse(self) -> None:
        pass

    def __del__(self) -> None:
        state = getattr(self, "state", None)
        if state is not None and state.code is None:
            self._end(grpc.StatusCode.CANCELLED, "the call was dropped by the program")


_FAILED: Any = object()


def parse(data: Payload, deserialize: Deserializer) -> Any:
    """The message, or _FAILED."""
    try:
        return parsed(data, deserialize)
    except Exception:
        log.exception(status.DESERIALIZE_RESPONSE_FAILED)
        return _FAILED


def response(state: ClientCall, deserialize: Deserializer) -> Any:
    """The one message of a call that has ended well. Where it does not parse, the call has failed."""
    try:
        return parsed(state.messages.popleft()[0], deserialize)
    except Exception:  # noqa: BLE001  # whatever the program's code raises; it is logged
        unparsed(state)
        return None


def unparsed(state: ClientCall) -> ClientCall:
    """The call, failed because its answer does not parse. To be called where the error is handled."""
    log.error(status.DESERIALIZE_RESPONSE_FAILED, exc_info=True)  # noqa: LOG014 - see above
    state.code = grpc.StatusCode.INTERNAL
    state.details = status.DESERIALIZE_RESPONSE_FAILED
    return state


def send_requests(
    state: ClientCall,
    connection: Connection,
    requests: Iterator[Any],
    serialize: Callable[[Any], bytes],
    deadline: float | None,
    max_send: int,
) -> None:
    """Sends what the program's iterator gives until it or the call ends."""
    while state.code is None:
        try:
            request = next(requests)
        except StopIteration:
            connection.close_send(state)
            return
        except Exception:
            log.exception(status.ITERATING_REQUESTS_FAILED)
            connection.end(state, grpc.StatusCode.UNKNOWN, status.ITERATING_REQUESTS_FAILED)
            return
        data = serialized(request, serialize)
        if data is None:
            connection.end(state, grpc.StatusCode.INTERNAL, status.SERIALIZE_REQUEST_FAILED)
            return
        if 0 <= max_send < len(data):
            connection.end(state, grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), max_send))
            return
        try:
            connection.send(state, data, deadline)
        except WireTimeout:
            connection.end(state, grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)
        except IpcdError as error:
            connection.end(state, grpc.StatusCode.INTERNAL, str(error))


def serialized(request: Any, serialize: Callable[[Any], bytes] | None) -> bytes | None:
    """The request's bytes, or None where it does not serialize."""
    try:
        data = request if serialize is None else serialize(request)
        if not isinstance(data, bytes):
            raise TypeError(f"the serializer returned {type(data).__name__}, not bytes")
    except Exception:
        log.exception(status.SERIALIZE_REQUEST_FAILED)
        return None
    return data


def _never() -> bool:
    return False


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("Exception in a callback of a call")
