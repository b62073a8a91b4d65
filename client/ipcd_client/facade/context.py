"""What a handler sees of its call: `grpc.ServicerContext`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ipcd_client.errors import UsageError
from ipcd_client.facade.messages import parsed
from ipcd_client.frame.codec import Payload
from ipcd_client.frame.settings import RESET_DEADLINE
from ipcd_client.rpc import deadline as deadlines
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.peer import Peer

log = logging.getLogger("ipcd_client")

# One for all contexts: it is held for an assignment, and few calls have callbacks.
_callbacks_lock = threading.Lock()


def _after_fork() -> None:
    global _callbacks_lock
    _callbacks_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class ServicerContext(grpc.ServicerContext):
    """One call at its handler. Every method is grpc's, and does what grpcio's does."""

    _deadline: float | None = None
    _callbacks: tuple[Callable[[], None], ...] | None = ()
    _aborted = False

    def __init__(self, connection: Connection, call: ServerCall, peer: Peer) -> None:
        self._connection = connection
        self._call = call
        self._peer = peer
        if call.timeout is not None:
            self._deadline = monotonic() + call.timeout
        call.user = self

    # -- grpc.RpcContext --------------------------------------------------------------------------

    def is_active(self) -> bool:
        return self._call.active

    def time_remaining(self) -> float:
        left = deadlines.left(self._deadline, monotonic())
        return deadlines.FOREVER if left is None else left

    def cancel(self) -> bool:
        if not self._connection.finish(self._call, status.to_int(grpc.StatusCode.CANCELLED), status.CANCELLED):
            return False
        self._end()
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with _callbacks_lock:
            if self._callbacks is None or not self._call.active:
                return False
            self._callbacks += (callback,)
            return True

    # -- grpc.ServicerContext ---------------------------------------------------------------------

    def invocation_metadata(self) -> md.Metadata:
        return md.received(self._call.metadata)

    def peer(self) -> str:
        return self._peer.name

    def peer_identities(self) -> Iterable[bytes] | None:
        return self._peer.identities()

    def peer_identity_key(self) -> str | None:
        return self._peer.identity_key

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:  # type: ignore[override]  # as grpcio's documentation
        return self._peer.auth_context()

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        headers = md.checked(initial_metadata, self._connection.settings.max_metadata)
        self._call.sends_headers(headers)
        self._connection.headers(self._call, headers)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._call.trailing = md.checked(trailing_metadata, self._connection.settings.max_metadata)

    def trailing_metadata(self) -> md.Metadata:
        return md.received(self._call.trailing)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        if code is grpc.StatusCode.OK:
            log.error("abort() called with StatusCode.OK; returning UNKNOWN")
            code, details = grpc.StatusCode.UNKNOWN, ""
        self._call.code = code
        self._call.details = details
        self._aborted = True
        raise Exception  # as grpcio does: handlers catch it by this class

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self._call.trailing = md.checked(status.trailing_metadata, self._connection.settings.max_metadata)
        self.abort(status.code, status.details)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._call.code = code

    def set_details(self, details: str) -> None:
        self._call.details = details

    def code(self) -> grpc.StatusCode | None:
        return self._call.code

    def details(self) -> str:
        return self._call.details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted: local bytes are not compressed."""

    def disable_next_message_compression(self) -> None:
        """Accepted: local bytes are not compressed."""

    # -- inside -----------------------------------------------------------------------------------

    @property
    def aborted(self) -> bool:
        """The handler has called abort."""
        return self._aborted

    def progressed(self) -> None:
        """An event of the call was taken in. (User)"""
        if self._call.cancelled is not None:
            self._end()

    def expire(self) -> None:
        """The deadline has passed. (Expiring)"""
        self._connection.cancel(self._call, "the deadline passed", RESET_DEADLINE)

    def shut_down(self) -> None:
        """The server stops without waiting for the handler."""
        if self._connection.finish(self._call, status.to_int(grpc.StatusCode.UNAVAILABLE), "the server has stopped"):
            self._end()

    @property
    def deadline(self) -> float | None:
        """Of time.monotonic()."""
        return self._deadline

    def ended(self) -> None:
        """The call is over: the callbacks run, once."""
        if self._callbacks:
            self._end()
        else:
            self._callbacks = None

    def _end(self) -> None:
        with _callbacks_lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                log.exception("Exception in a callback of %s", self._call.method)


class RequestIterator:
    """The requests of a call, as they come."""

    def __init__(self, context: ServicerContext, connection: Connection, call: ServerCall, deserialize: Any) -> None:
        self._context = context
        self._connection = connection
        self._call = call
        self._deserialize = deserialize

    def __iter__(self) -> RequestIterator:
        return self

    def __next__(self) -> Any:
        call = self._call
        if not call.messages and not call.requests_ended:
            self._connection.wait(
                call.stream,
                lambda: bool(call.messages) or call.requests_ended or not call.active or bool(call.oversize),
                None,
            )
        if not call.active:
            raise grpc.RpcError
        if call.messages:
            data = self._connection.take(call)
            return deserialized(self._deserialize, data, call)
        if call.oversize:
            raise too_large(call)
        raise StopIteration

    next = __next__


class BadRequest(UsageError):
    """The request cannot be given to the handler; the call has its code and details."""


def deserialized(deserialize: Callable[[bytes], Any] | None, data: Payload, call: ServerCall) -> Any:
    """The request's message.

    Raises:
        BadRequest: it does not parse.
    """
    try:
        return parsed(data, deserialize)
    except Exception as error:
        log.exception(status.DESERIALIZE_REQUEST_FAILED)
        call.code = grpc.StatusCode.INTERNAL
        call.details = status.DESERIALIZE_REQUEST_FAILED
        raise BadRequest(call.details) from error


def too_large(call: ServerCall) -> BadRequest:
    """The error for a request over the limit."""
    call.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    call.details = status.received_too_large(call.oversize, call.limit)
    return BadRequest(call.details)
