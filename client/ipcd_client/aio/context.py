"""`grpc.aio.ServicerContext`, for handlers that run on a loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError
from grpc.aio import UsageError as Misused

from ipcd_client.aio.methods import Method, Unfit
from ipcd_client.errors import UsageError, WireClosed
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.stream import close_all
from ipcd_client.loop.waiters import Waiters
from ipcd_client.rpc import deadline, status
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.call import ServerCall
from ipcd_client.wire.fds import Fd

if TYPE_CHECKING:
    Base = grpc.aio.ServicerContext[Any, Any]
else:
    Base = grpc.aio.ServicerContext

log = logging.getLogger("ipcd_client")

RawMetadata = Iterable[tuple[str | bytes, str | bytes]]
Callback = Callable[[Any], None]
OnEnd = Callable[["ServicerContext"], None]


class ServicerContext(Base):
    """What a handler sees of its call. Has grpc.aio's methods, and some of its own: `peer_identity`, whatever `serve`
    was told of the peer, and those for descriptors.

    The task that runs the handler is cancelled when nobody waits for the answer any more.
    """

    task: asyncio.Task[None] | None = None
    started = False  # the task has
    _abort: AbortError | None = None
    _news: Waiters | None = None
    _deadline: float | None = None
    _callbacks: list[Callback] | None = None
    _over = False
    _outgoing: list[Fd] | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        call: ServerCall,
        method: Method | None,
        identity: Any,
        on_end: OnEnd,
    ) -> None:
        self.peer_identity = identity
        self.method = method
        self._on_end = on_end
        self._connection = connection
        self._call = call
        self._loop = loop
        if call.timeout is not None:
            self._deadline = loop.time() + call.timeout
            connection.alarms.expect(self, self._deadline)
        call.user = self

    # -- grpc.aio.ServicerContext -----------------------------------------------------------------

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` when there are no more."""
        call = self._call
        while not call.messages and not call.requests_ended and not call.oversize and call.active:
            await self.wait()
        self._check_running()
        if call.messages:
            assert self.method is not None
            return self.method.parsed(self._connection.take(call))
        if call.oversize:
            raise Unfit(grpc.StatusCode.RESOURCE_EXHAUSTED, status.received_too_large(call.oversize, call.limit))
        return EOF

    async def write(self, message: Any) -> None:
        """Sends one response, once there is credit; with it, what `attach_fds` was given."""
        self._check_running()
        assert self.method is not None
        await self.send(self.method.serialized(message))

    async def send_initial_metadata(self, initial_metadata: RawMetadata) -> None:
        """Sends initial metadata.

        Raises:
            grpc.aio.UsageError: it was sent before, or the call is over.
        """
        self._check_running()
        headers = md.checked(initial_metadata, self._connection.settings.max_metadata)
        try:
            self._call.sends_headers(headers)
        except ValueError:
            raise Misused("Send initial metadata failed: already sent") from None
        self._connection.headers(self._call, headers)

    async def abort(
        self, code: grpc.StatusCode, details: str | None = "", trailing_metadata: RawMetadata = ()
    ) -> NoReturn:
        """Ends the call with an error, at once. Raises `grpc.aio.AbortError`, always.

        Raises:
            grpc.aio.UsageError: it was called before.
        """
        if self._abort is not None:
            raise Misused("Abort already called!")
        call = self._call
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        if details or not call.details:
            self.set_details(details)
        if _number(code) == status.OK:
            log.error("abort() of %s with the code OK", call.method)
            code = grpc.StatusCode.UNKNOWN
        self._abort = AbortError("Locally aborted.")
        call.code = code
        self.finish()
        raise self._abort

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same with what belongs to a status."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: RawMetadata) -> None:
        """Sent with the status."""
        self._call.trailing = md.checked(trailing_metadata, self._connection.settings.max_metadata)

    def invocation_metadata(self) -> md.Metadata:  # type: ignore[override]  # a tuple, as grpc.aio's is
        """What the caller sent along."""
        return md.received(self._call.metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status with which the call ends, also if the handler raises."""
        self._call.code = code

    def set_details(self, details: str | None) -> None:
        """The status's text, unless the handler raises."""
        if details is not None and not isinstance(details, str):
            raise TypeError(f"details must be str, not {type(details).__name__}")
        self._call.details = details or ""

    def set_compression(self, compression: grpc.Compression) -> None:  # noqa: ARG002
        """Accepted: local bytes are not compressed.

        Raises:
            RuntimeError: the initial metadata was sent before.
        """
        if self._call.headers_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")

    def disable_next_message_compression(self) -> None:
        """Accepted: local bytes are not compressed."""

    def code(self) -> Any:
        """As set so far; None if it was not."""
        return self._call.code

    def details(self) -> str:
        """As set so far."""
        return self._call.details

    def trailing_metadata(self) -> md.Metadata:  # type: ignore[override]  # a tuple, as grpc.aio's is
        """As set so far."""
        return md.received(self._call.trailing)

    def peer(self) -> str:
        """The caller in words."""
        return self._connection.wire.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """There is no TLS peer."""
        return None

    def peer_identity_key(self) -> str | None:
        """There is no TLS peer."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """There is no TLS peer."""
        return {}

    def time_remaining(self) -> Any:
        """Seconds until the caller's deadline; None without one."""
        return deadline.left(self._deadline, self._loop.time())

    def cancelled(self) -> bool:
        """Nobody waits for the answer any more."""
        return self._call.cancelled is not None or self._call.code is grpc.StatusCode.CANCELLED

    def why_cancelled(self) -> str | None:
        """Why nobody waits for the answer any more; None while somebody does."""
        return self._call.cancelled

    def caller_lost(self) -> bool:
        """The connection has ended, and not as it does when its peer closes it or dies: the caller may live."""
        error = self._connection.error
        # What is derived from it says more than that the peer has ended it.
        return error is not None and type(error) is not WireClosed

    def done(self) -> bool:
        """The call is over, either way."""
        return not self._call.active

    def add_done_callback(self, callback: Callback) -> None:
        """Calls `callback(context)` when the handler has ended; at once if it has."""
        if self._over:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
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
        self._outgoing = [*self._take_outgoing(), *fds]

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
        assert self.method is not None
        return self._connection.send_now(self._call, self.method.serialized(message), fds=fds)

    def _take_outgoing(self) -> list[Fd]:
        fds, self._outgoing = self._outgoing, None
        return fds or []

    # -- for the server ---------------------------------------------------------------------------

    async def send(self, data: bytes, *, more: bool = False) -> None:
        """Sends one response that is serialized. `more`: others follow at once, and go in the same write.

        Raises:
            grpc.aio.UsageError: the call is over.
        """
        call = self._call
        call.headers_sent = True
        if not await self._connection.send(call, data, fds=self._take_outgoing(), more=more):
            # Who goes on although the task was cancelled must not go on for ever: nothing here suspends any more.
            self._check_running()

    def finish(self, message: bytes | None = None) -> None:
        """Sends the status that was set, and the answer of a unary call with it."""
        call = self._call
        fds = self._take_outgoing()
        if message is None:
            # There is nothing that they would belong to.
            close_all(fds)
            fds = []
        self._connection.finish(
            call, _number(call.code), call.details, trailing=call.trailing, message=message, fds=fds
        )

    def give_up(self, code: grpc.StatusCode, details: str, why: str) -> None:
        """Sends this status although the handler runs, which is cancelled; `why` is what it is told."""
        self._connection.give_up(self._call, code, details, why)

    def progressed(self) -> None:
        """(User)"""
        if self._news is not None:
            self._news.progressed()
        if self._call.cancelled is not None and self.task is not None:
            self.task.cancel()
            if not self.started:
                # Nothing of it will run, so neither will its end.
                self.ended()

    def rest(self) -> Iterator[Any]:
        """What `read` would have given yet if the call had not ended: the requests that came until then, and
        `grpc.aio.EOF` if there are no more.

        Raises:
            Unfit: one cannot be parsed.
        """
        call = self._call
        while call.messages:
            assert self.method is not None
            # There is nobody left to give credit to.
            yield self.method.parsed(call.messages.popleft()[0])
        if call.requests_ended and not call.oversize:
            yield EOF

    async def only_request(self) -> Any:
        """The request of a call that has one.

        Raises:
            Unfit: there is none.
        """
        request = await self.read()
        if request is EOF:
            raise Unfit(grpc.StatusCode.UNIMPLEMENTED, status.one_request_missing(self._call.method))
        return request

    async def wait(self) -> None:
        """Until the call has news."""
        if self._news is None:
            self._news = Waiters()
        await self._news.wait()

    @property
    def aborted(self) -> AbortError | None:
        """What `abort` has raised."""
        return self._abort

    def ended(self) -> None:
        """The handler is done."""
        call = self._call
        if self._deadline is not None:
            self._connection.alarms.forget(self)
        if self._outgoing:
            close_all(self._take_outgoing())
        if "fds" in call.__dict__:
            close_all(call.fds)
        if self._news is not None:
            self._news.progressed()
        # These refer back to this: what is no cycle is freed at once, and not by the collector.
        call.user = None
        self._abort = None
        self._over = True
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:
                log.exception("a done-callback of %s failed", call.method)
        self._on_end(self)

    def _check_running(self) -> None:
        if self._abort is not None:
            raise self._abort
        if not self._call.active:
            raise Misused(f"RPC already finished: {self._call.cancelled or 'its status was sent'}")

    def expire(self) -> None:
        """The deadline has passed. (Expiring)"""
        self.give_up(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, "the deadline passed")


class Requests:
    """The requests of a call, as they come."""

    __slots__ = ("_context",)

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is EOF:
            raise StopAsyncIteration
        return request


def _number(code: Any) -> int:
    """What travels for what a handler has set: one of the enum's, a number, or nothing."""
    if code is None:
        return status.OK
    if isinstance(code, grpc.StatusCode):
        return status.to_int(code)
    return code if code in status.CODES else status.to_int(grpc.StatusCode.UNKNOWN)
