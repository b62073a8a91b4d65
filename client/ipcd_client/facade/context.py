"""What a handler sees of its call: `grpc.ServicerContext`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ipcd_client.errors import IpcdError, UsageError
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
    _details: bytes | None = None  # as grpcio keeps them; those of the call are their text
    _begin: Callable[[], None] | None = None  # to be called when the request is there

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
        return self._break_off(grpc.StatusCode.CANCELLED, status.CANCELLED)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with _callbacks_lock:
            if self._callbacks is None or not self._call.active:
                return False
            self._callbacks += (callback,)
            return True

    # -- grpc.ServicerContext ---------------------------------------------------------------------

    def invocation_metadata(self) -> md.Metadata:
        return md.received(self._call.metadata)

    @property
    def caller(self) -> object:
        """The process that calls."""
        return self._peer.process

    def peer(self) -> str:
        return self._peer.name

    def peer_identities(self) -> Iterable[bytes] | None:
        return self._peer.identities()

    def peer_identity_key(self) -> str | None:
        return self._peer.identity_key

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:  # type: ignore[override]  # as grpcio's documentation
        return self._peer.auth_context()

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        call = self._call
        if call.cancelled is not None:
            raise grpc.RpcError
        if call.headers_sent:
            raise ValueError("Initial metadata no longer allowed!")
        try:
            headers = md.checked(initial_metadata, self._connection.settings.max_metadata)
        except IpcdError as error:
            # grpcio's handler does not learn of it either, and its caller no more than this.
            self._refuse_metadata(error)
            return
        call.sends_headers(headers)
        self._connection.headers(call, headers)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """It is checked when it is sent."""
        self._call.trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        """What was set last, as it is; None before."""
        return self._call.trailing or None

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        if code is grpc.StatusCode.OK:
            log.error("abort() called with StatusCode.OK; returning UNKNOWN")
            code, details = grpc.StatusCode.UNKNOWN, ""
        self._call.code = code
        self.set_details(details)
        self._aborted = True
        raise Exception  # as grpcio does: handlers catch it by this class

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._call.code = code

    def set_details(self, details: str | bytes) -> None:
        encoded = details if isinstance(details, bytes) else details.encode()
        self._details = encoded
        self._call.details = encoded.decode("utf-8", "replace")

    def code(self) -> grpc.StatusCode | None:
        return self._call.code

    def details(self) -> bytes | None:  # as grpcio's, whatever the stubs of others say
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted: local bytes are not compressed."""

    def disable_next_message_compression(self) -> None:
        """Accepted: local bytes are not compressed."""

    # -- the end of the call ----------------------------------------------------------------------

    @property
    def aborted(self) -> bool:
        """The handler has called abort."""
        return self._aborted

    def finish(self, message: bytes | None = None) -> None:
        """Ends the call as the handler has set code, details and trailing metadata."""
        self._send_status(self._number(), self._call.details, message)

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """Ends the call with an error. Code and details that the handler has set go before these, as in grpcio; but an
        error it is, where grpcio lets an OK stand."""
        number = self._number() or status.to_int(code)
        self._send_status(number, details if self._details is None else self._call.details, None)

    def _number(self) -> int:
        code: Any = self._call.code
        if code is None:
            return 0
        # grpcio: what is none of the enum's becomes UNKNOWN.
        return status.to_int(code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN)

    def _send_status(self, number: int, details: str, message: bytes | None) -> None:
        trailing: Any = ()
        if self._call.trailing:
            try:
                trailing = md.checked(self._call.trailing, self._connection.settings.max_metadata)
            except IpcdError as error:
                self._refuse_metadata(error)
                return
            except Exception as error:
                # grpcio never answers such a call.
                log.exception("trailing metadata of %s", self._call.method)
                number, details, message = status.to_int(grpc.StatusCode.UNKNOWN), status.calling_failed(error), None
        self._connection.finish(self._call, number, details, trailing=trailing, message=message)

    def _refuse_metadata(self, error: IpcdError) -> None:
        log.error("%s: %s", self._call.method, error)
        if isinstance(error, UsageError):
            code, details = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        else:
            code, details = grpc.StatusCode.INTERNAL, status.INVALID_METADATA
        self._connection.finish(self._call, status.to_int(code), details)

    # -- inside -----------------------------------------------------------------------------------

    def progressed(self) -> None:
        """An event of the call was taken in. (User)"""
        if self._begin is not None:
            self._look_begun()
        if self._call.cancelled is not None:
            self._end()

    def when_asked(self, begin: Callable[[], None]) -> None:
        """Calls it once the call's only request has come, or will not come: until then it needs no thread."""
        self._begin = begin
        self._look_begun()

    def _look_begun(self) -> None:
        if asked(self._call):
            with _callbacks_lock:
                begin, self._begin = self._begin, None
            if begin is not None:
                begin()

    def expire(self) -> None:
        """The deadline has passed. (Expiring)"""
        self._connection.cancel(self._call, "the deadline passed", RESET_DEADLINE)

    def shut_down(self) -> None:
        """The server stops without waiting for the handler."""
        self._break_off(grpc.StatusCode.UNAVAILABLE, "the server has stopped")

    def _break_off(self, code: grpc.StatusCode, details: str) -> bool:
        """Ends the call while its handler runs, which finds it cancelled."""
        if not self._connection.finish(self._call, status.to_int(code), details):
            return False
        self._call.cancelled = details
        self._end()
        return True

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
        if self._begin is not None:
            self._look_begun()
        with _callbacks_lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                log.exception("Exception in a callback of %s", self._call.method)


def asked(call: ServerCall) -> bool:
    """There is nothing to wait for: the only request of a call is there, or will not come."""
    return bool(call.messages) or call.requests_ended or bool(call.oversize) or not call.active
