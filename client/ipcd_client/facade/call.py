"""What a stub's call gives back: at once `grpc.Call`, `grpc.Future`, the raised error, and for streams an iterator."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

import grpc

from ipcd_client.facade.exchange import Exchange
from ipcd_client.facade.messages import parsed
from ipcd_client.facade.shapes import Future
from ipcd_client.frame.codec import Payload
from ipcd_client.rpc import deadline as deadlines
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall

log = logging.getLogger("ipcd_client")

Deserializer = Callable[[bytes], Any] | None

# What ends on this side leaves nothing to take; what came before a connection was lost is still given.
_LOCAL: Final = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


class Call(grpc.RpcError, grpc.Call, Future):
    """One call with one response. Any method from any thread."""

    def __init__(self, exchange: Exchange, deserialize: Deserializer) -> None:
        # With its arguments, from which copy.copy makes another.
        super().__init__(exchange, deserialize)
        self._exchange = exchange
        self._deserialize = deserialize
        self._parsing = threading.Lock()
        self._parsed = False
        self._response: Any = None

    def __del__(self) -> None:
        exchange: Exchange | None = getattr(self, "_exchange", None)
        # At the interpreter's end, threads that will never run again may hold any lock, and none can be started. The
        # server learns of the end from the connection's.
        if exchange is not None and not sys.is_finalizing():
            exchange.dropped()

    # -- grpc.RpcContext --------------------------------------------------------------------------

    def is_active(self) -> bool:
        return not self._exchange.look()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio gives None too
        return deadlines.left(self._exchange.deadline, monotonic())

    def cancel(self) -> bool:
        return self._exchange.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return self._exchange.add(callback)

    # -- grpc.Call --------------------------------------------------------------------------------

    def initial_metadata(self) -> md.Metadata:
        self._exchange.wait(_has_headers)
        return self._state.initial_metadata or ()

    def trailing_metadata(self) -> md.Metadata:  # type: ignore[override]  # namedtuples of our own
        return self._ended().trailing_metadata

    def code(self) -> grpc.StatusCode:
        code = self._ended().code
        assert code is not None
        return code

    def details(self) -> str:
        return self._ended().details

    def debug_error_string(self) -> str:
        """The error in one line, with the method and the peer; empty if there is none."""
        state = self._ended()
        return "" if state.code is grpc.StatusCode.OK else self._error()

    def _error(self) -> str:
        connection, state = self._exchange.link
        peer = connection.wire.peer() if connection is not None else "no connection"
        return f"ipcd: {state.method} on {peer}: {state.details}"

    # -- grpc.Future ------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        return self._exchange.cancelled

    def running(self) -> bool:
        return not self._exchange.look()

    def done(self) -> bool:
        return self._exchange.look()

    def result(self, timeout: float | None = None) -> Any:
        """The response; None of a stream. Raises itself, if the call failed."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._response

    def exception(self, timeout: float | None = None) -> Exception | None:
        if not self._exchange.wait(timeout=timeout):
            raise grpc.FutureTimeoutError
        if self._settled().code is grpc.StatusCode.OK:
            return None
        if self._exchange.cancelled:
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is None:
            return None
        try:
            raise error
        except grpc.RpcError:
            return error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self._exchange.add(lambda: fn(self)):
            fn(self)

    # -- the state --------------------------------------------------------------------------------

    @property
    def _state(self) -> ClientCall:
        return self._exchange.link[1]

    def _ended(self) -> ClientCall:
        """Waits for the end. What the call ended with."""
        self._exchange.wait()
        return self._settled()

    def _settled(self) -> ClientCall:
        """The state of a call that has ended. Whether its response can be parsed belongs to how it ended."""
        state = self._state
        with self._parsing:
            if not self._parsed:
                self._parsed = True
                self._response = response(state, self._deserialize)
        return state

    # -- the error --------------------------------------------------------------------------------

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        if not self._exchange.over:
            return f"<{type(self).__name__} of {self._state.method} that is running>"
        state = self._settled()
        error = "" if state.code is grpc.StatusCode.OK else f'\tdebug_error_string = "{self._error()}"\n'
        return (
            f"<{type(self).__name__} of {state.method} that terminated with:\n"
            f"\tstatus = {state.code}\n"
            f'\tdetails = "{state.details}"\n'
            f"{error}>"
        )


class StreamCall(Call):
    """A call with a stream of responses."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        data, state = self._take()
        exchange = self._exchange
        if state.code is not None and not state.messages:
            exchange.drained()
        message = _parse(data, self._deserialize)
        if message is None:
            code, details = grpc.StatusCode.INTERNAL, status.DESERIALIZE_RESPONSE_FAILED
            if not exchange.end(code, details):
                state.spoil(code, details)
            raise self
        return message

    def _take(self) -> tuple[Payload, ClientCall]:
        exchange = self._exchange
        while True:
            if exchange.deadline is not None and monotonic() >= exchange.deadline:
                exchange.expire()
            connection, state = exchange.link
            if connection is not None and _has_messages(state):
                try:
                    return connection.take(state), state
                except IndexError:
                    continue  # another thread has taken it
            if exchange.over:
                if exchange.link[1] is not state or _has_messages(state):
                    continue  # that was meanwhile
                if state.code is grpc.StatusCode.OK:
                    raise StopIteration
                raise self
            try:
                exchange.wait(_has_messages)
            except BaseException:
                # Ctrl-C: nobody knows any more which response was taken last.
                exchange.cancel()
                raise

    next = __next__

    def await_response(self, timeout: float) -> bool:
        """Waits until there is a response to take, or the end. False if `timeout` seconds passed first."""
        return self._exchange.wait(_has_messages, timeout)

    def _settled(self) -> ClientCall:
        return self._state


def _has_headers(state: ClientCall) -> bool:
    return state.responded


def _has_messages(state: ClientCall) -> bool:
    return bool(state.messages) and not (state.cut and state.code in _LOCAL)


def response(state: ClientCall, deserialize: Deserializer) -> Any:
    """The one response of a call that has ended. Where there is none, or it does not parse, the call has failed."""
    if state.code is not grpc.StatusCode.OK:
        return None
    if not state.messages:
        state.spoil(grpc.StatusCode.INTERNAL, "the server sent no response")
        return None
    message = _parse(state.messages.popleft()[0], deserialize)
    if message is None:
        state.spoil(grpc.StatusCode.INTERNAL, status.DESERIALIZE_RESPONSE_FAILED)
    return message


def _parse(data: Payload, deserialize: Deserializer) -> Any:
    """The message. None where the program's deserializer raises or gives None, which is logged."""
    try:
        message = parsed(data, deserialize)
    except Exception:
        log.exception(status.DESERIALIZE_RESPONSE_FAILED)
        return None
    if message is None:
        log.error("%s It gave None.", status.DESERIALIZE_RESPONSE_FAILED)
    return message
