"""`grpc.aio.ServicerContext`, for handlers that run on a loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError

from ipcd_client.errors import UsageError
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.stream import close_all
from ipcd_client.loop.waiters import Waiters
from ipcd_client.rpc import deadline, status
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.call import ServerCall
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")

RawMetadata = Iterable[tuple[str | bytes, str | bytes]]


class BadRequest(Exception):
    """The request cannot be given to the handler; code and details of the call say why."""


class ServicerContext:
    """What a handler sees of its call. Has grpc.aio's methods, and two of its own: `peer_identity`, whatever `serve`
    was told of the peer, and `attach_fds`.

    The task that runs the handler is cancelled when nobody waits for the answer any more.
    """

    def __init__(
        self, connection: Connection, call: ServerCall, handler: grpc.RpcMethodHandler[Any, Any], identity: Any
    ) -> None:
        self.peer_identity = identity
        self.task: asyncio.Task[None] | None = None
        self.aborted = False
        self.outgoing: list[Fd] = []
        self._connection = connection
        self._call = call
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._news = Waiters()
        self._callbacks: list[Callable[[Any], None]] = []
        self._deadline = deadline.at(call.timeout, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        if self._deadline is not None:
            self._timer = self._loop.call_at(self._deadline, self._expired)
        call.user = self

    # -- grpc.aio.ServicerContext -----------------------------------------------------------------

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` when there are no more."""
        call = self._call
        while not call.messages and not call.requests_ended and not call.oversize and call.active:
            await self._news.wait()
        if call.messages:
            return self.deserialized(self._connection.take(call))
        if call.oversize:
            call.code = grpc.StatusCode.RESOURCE_EXHAUSTED
            call.details = status.received_too_large(call.oversize, call.limit)
            raise BadRequest(call.details)
        return EOF

    async def write(self, message: Any) -> None:
        """Sends one response, once there is credit; with it, what `attach_fds` was given."""
        data = self.serialized(message)
        await self._connection.send(self._call, data, fds=self.take_outgoing())

    async def send_initial_metadata(self, initial_metadata: RawMetadata) -> None:
        """Sends initial metadata.

        Raises:
            ValueError: it was sent before.
        """
        headers = md.checked(initial_metadata, self._connection.settings.max_metadata)
        self._call.sends_headers(headers)
        self._connection.headers(self._call, headers)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: RawMetadata = ()) -> NoReturn:
        """Ends the call with an error. Raises `grpc.aio.AbortError`, always."""
        call = self._call
        if code is grpc.StatusCode.OK:
            log.error("abort() with StatusCode.OK")
            code, details = grpc.StatusCode.UNKNOWN, ""
        call.code = code
        call.details = details
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self.aborted = True
        raise AbortError("Locally aborted.")

    def set_trailing_metadata(self, trailing_metadata: RawMetadata) -> None:
        """Sent with the status."""
        self._call.trailing = md.checked(trailing_metadata, self._connection.settings.max_metadata)

    def invocation_metadata(self) -> md.Metadata:
        """What the caller sent along."""
        return md.received(self._call.metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status with which the call ends, unless the handler raises."""
        self._call.code = code

    def set_details(self, details: str) -> None:
        """The status's text."""
        self._call.details = details

    def code(self) -> grpc.StatusCode | None:
        """As set so far."""
        return self._call.code

    def details(self) -> str:
        """As set so far."""
        return self._call.details

    def trailing_metadata(self) -> md.Metadata:
        """As set so far."""
        return md.received(self._call.trailing)

    def peer(self) -> str:
        """The caller in words."""
        return self._connection.wire.peer()

    def peer_identities(self) -> None:
        """There is no TLS peer."""

    def peer_identity_key(self) -> None:
        """There is no TLS peer."""

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        """There is no TLS peer."""
        return {}

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        return deadline.left(self._deadline, self._loop.time())

    def cancelled(self) -> bool:
        """Nobody waits for the answer any more."""
        return self._call.cancelled is not None

    def why_cancelled(self) -> str | None:
        """Why nobody waits for the answer any more; None while somebody does."""
        return self._call.cancelled

    def done(self) -> bool:
        """The call is over, either way."""
        return not self._call.active

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(context)` when the call is over."""
        self._callbacks.append(callback)

    # -- descriptors ------------------------------------------------------------------------------

    @property
    def carries_fds(self) -> bool:
        """Whether descriptors can travel on this connection."""
        return self._connection.wire.kind in {"unix", "memory"}

    def attach_fds(self, fds: Sequence[Fd]) -> None:
        """The next message carries these. They are owned by the call from here on.

        Raises:
            UsageError: the connection cannot carry descriptors; they are closed.
        """
        if not self.carries_fds:
            close_all(fds)
            raise UsageError(f"a {self._connection.wire.kind} connection carries no descriptors")
        self.outgoing += fds

    def take_outgoing(self) -> list[Fd]:
        """What `attach_fds` was given and no message has carried yet."""
        fds, self.outgoing = self.outgoing, []
        return fds

    def take_fds(self) -> list[Fd]:
        """The descriptors that came with the call's messages so far, owned by the caller of this."""
        fds = list(self._call.fds)
        self._call.fds.clear()
        return fds

    def write_now(self, message: Any, fds: Sequence[Fd]) -> bool:
        """Sends a response without waiting. False, with the descriptors closed, if the call is over or there is no
        credit or room for it."""
        if not self._call.active or not self.carries_fds or not self._connection.has_room(self._call):
            close_all(fds)
            return False
        return self._connection.send_now(self._call, self.serialized(message), fds=fds)

    # -- for the server ---------------------------------------------------------------------------

    def deserialized(self, data: bytes) -> Any:
        """A request as the handler wants it.

        Raises:
            BadRequest: it does not parse.
        """
        deserialize = self._handler.request_deserializer
        try:
            return data if deserialize is None else deserialize(data)
        except Exception as error:
            log.warning("%s from %s: %s", self._call.method, self.peer(), error)
            self._call.code = grpc.StatusCode.INTERNAL
            self._call.details = status.DESERIALIZE_REQUEST_FAILED
            raise BadRequest(self._call.details) from error

    def serialized(self, message: Any) -> bytes:
        """A response as it travels.

        Raises:
            BadRequest: it does not serialize.
        """
        serialize = self._handler.response_serializer
        try:
            data = message if serialize is None else serialize(message)
            if not isinstance(data, bytes):
                raise TypeError(f"the serializer returned {type(data).__name__}, not bytes")
        except Exception as error:
            log.exception(status.SERIALIZE_FAILED)
            self._call.code = grpc.StatusCode.INTERNAL
            self._call.details = status.SERIALIZE_FAILED
            raise BadRequest(self._call.details) from error
        return data

    def progressed(self) -> None:
        """(User)"""
        self._news.progressed()
        if self._call.cancelled is not None and self.task is not None:
            self.task.cancel()

    async def wait(self) -> None:
        """Until the call has news."""
        await self._news.wait()

    def ended(self) -> None:
        """The handler is done."""
        if self._timer is not None:
            self._timer.cancel()
        close_all(self.outgoing)
        close_all(self._call.fds)
        self._news.progressed()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                log.exception("a done-callback of %s failed", self._call.method)

    def _expired(self) -> None:
        self._connection.give_up(
            self._call, grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, "the deadline passed"
        )
