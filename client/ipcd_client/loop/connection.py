"""One connection driven by an event loop.

Everything happens on the loop's thread, so there are no locks: the loop says when the wire is readable or writable,
`_on_readable` feeds the pure cores, and tasks that wait are woken. Nothing here waits inside a callback.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from ipcd_client.errors import UsageError, WireError
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Buffer, Metadata, Payload
from ipcd_client.frame.connection import StreamsExhausted
from ipcd_client.loop.life import BACKLOG_HIGH, progressed
from ipcd_client.loop.reading import Reading
from ipcd_client.loop.stream import ClientStream, close_all
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd


class Connection(Reading):
    """One end: the calls that are made over it, and those that are answered."""

    # -- the caller's end -------------------------------------------------------------------------

    async def call(
        self, method: str, request: bytes, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> tuple[bytes, list[Fd]]:
        """A unary call: the answer, and the descriptors that came with it, owned by the caller.

        `timeout` in seconds. Cancelling the task cancels the call.

        Raises:
            CallFailed: it ended with any other status than OK.
        """
        stream = self.stream(method, request=request, timeout=timeout, metadata=metadata)
        try:
            message = await stream.receive()
            if message is None:
                raise CallFailed(grpc.StatusCode.INTERNAL, f"{method} answered OK without a message")
            await stream.finish()
            return message, stream.take_fds()
        finally:
            stream.cancel()

    def stream(
        self,
        method: str,
        *,
        request: bytes | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ClientStream:
        """Begins a call of any kind. With `request`, that is its only message.

        A call that cannot be begun has failed; its methods say why.
        """
        call = ClientCall(method, self.settings.max_message)
        stream = ClientStream(self, call)
        self.start(call, timeout=timeout, metadata=metadata, message=request, end=request is not None)
        if timeout is not None and not call.done:
            stream.timer = self._loop.call_later(max(0.0, timeout), self._expired, call)
        return stream

    def start(
        self,
        call: ClientCall,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        message: Buffer | None = None,
        end: bool = False,
    ) -> None:
        """Opens a call. Where that fails, the call has failed; it is `refused` if the peer has not seen it."""
        if self.error is not None:
            call.refused = True
            code = self.error.code if isinstance(self.error, WireError) else grpc.StatusCode.UNAVAILABLE
            call.fail(code, str(self.error))
            return
        if end and message is not None and not metadata:
            opened = self.core.open_plain(call.method, bytes(message), timeout)
            if opened is not None:
                call.stream, frame = opened
                self._calls[call.stream] = call
                self._put(frame)
                call.sent_at = self._given()
                return
        try:
            call.stream, buffers = self.core.open(
                call.method, timeout=timeout, metadata=metadata, message=message, end=end
            )
        except UsageError as error:
            self.retired = self.retired or self.core.going_away or isinstance(error, StreamsExhausted)
            call.refused = self.retired
            call.fail(grpc.StatusCode.UNAVAILABLE if self.retired else grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            return
        self._calls[call.stream] = call
        self._send(buffers)
        call.sent_at = self._given()

    def _given(self) -> int:
        """Where the wire is when it has sent what is held, too; 0 where it does not count."""
        return self.wire.sent + self._held_size if self.wire.sent else 0

    def end(self, call: ClientCall, code: grpc.StatusCode, details: str, reset: int = limits.RESET_CANCEL) -> bool:
        """Ends a call from this side, and tells the peer. False if it has ended already."""
        if not call.fail(code, details):
            return False
        self._forget(call.stream)
        self._send(self.core.reset(call.stream, reset))
        close_all(call.fds)
        progressed(call)
        return True

    def _expired(self, call: ClientCall) -> None:
        self.end(call, grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, limits.RESET_DEADLINE)

    def close_send(self, call: ClientCall) -> None:
        """The caller has no further message."""
        if call.stream in self._calls:
            self._send(self.core.close_send(call.stream))

    # -- both ends --------------------------------------------------------------------------------

    def has_room(self, call: ClientCall | ServerCall) -> bool:
        """A message of the call could be sent now."""
        return self.core.credit(call.stream) > 0 and self.wire.backlog + self._held_size < BACKLOG_HIGH

    def send_now(
        self,
        call: ClientCall | ServerCall,
        message: Buffer,
        *,
        end: bool = False,
        fds: Sequence[Fd] = (),
        more: bool = False,
    ) -> bool:
        """Sends one message, whatever the credit. False: the call has ended, nothing was sent, and `fds` are closed.
        `more`: others follow at once, and go in the same write."""
        if call.stream not in self._calls:
            close_all(fds)
            return False
        self._send(self.core.message(call.stream, message, end=end, fds=len(fds)), fds, more=more)
        return True

    async def send(
        self,
        call: ClientCall | ServerCall,
        message: Buffer,
        *,
        end: bool = False,
        fds: Sequence[Fd] = (),
        more: bool = False,
    ) -> bool:
        """Sends one message once there is credit and room. `fds` are owned by the connection from here on.
        False: the call has ended, nothing was sent. `more`: as `send_now`."""
        try:
            while call.stream in self._calls and not self.has_room(call):
                if self.core.credit(call.stream) <= 0:
                    await call.user.wait()
                else:
                    self._release()
                    if not self.has_room(call):
                        await self._news.wait()
        except BaseException:
            close_all(fds)
            raise
        return self.send_now(call, message, end=end, fds=fds, more=more)

    def take(self, call: ClientCall | ServerCall) -> Payload:
        """The next message of the call, of which there must be one. Gives the credit back."""
        message, cost = call.messages.popleft()
        if cost >= 0:
            self._send(self.core.consumed(call.stream, cost))
        return message

    # -- the callee's end -------------------------------------------------------------------------

    def accept(self, call: ServerCall) -> None:
        """Takes on a call that the peer opened: from now on its events are taken in."""
        self._calls[call.stream] = call

    def headers(self, call: ServerCall, metadata: Metadata) -> None:
        """Sends initial metadata."""
        if call.stream in self._calls:
            self._send(self.core.headers(call.stream, metadata))

    def finish(
        self,
        call: ServerCall,
        code: int,
        details: str = "",
        *,
        headers: Metadata | None = None,
        trailing: Metadata = (),
        message: Buffer | None = None,
        fds: Sequence[Fd] = (),
    ) -> bool:
        """Sends the status, and the answer of a unary call with it. False if nobody waits for it; `fds`, owned by the
        connection from here on, are then closed."""
        if "fds" in call.__dict__:
            close_all(call.fds)
        if call.stream not in self._calls:
            close_all(fds)
            return False
        call.finished = True
        if not code and message is not None and not (details or headers or trailing or fds):
            answer = self.core.answer_plain(call.stream, bytes(message))
            if answer is not None:
                self._put(answer)
                self._forget(call.stream)
                return True
        self._forget(call.stream)
        self._send(
            self.core.status(
                call.stream, code, details, headers=headers, trailing=trailing, message=message, fds=len(fds)
            ),
            fds,
        )
        return True

    def give_up(self, call: ServerCall, code: grpc.StatusCode, details: str, why: str) -> None:
        """Ends a call although its handler still runs; `why` is what the handler's side is told."""
        if self._calls.get(call.stream) is call:
            self._forget(call.stream)
            self._send(self.core.status(call.stream, status.to_int(code), details))
            call.cancel(why)
            close_all(call.fds)
            progressed(call)

    def drain(self, reason: str) -> None:
        """Takes no new calls; those under way go on."""
        self._send(self.core.drain(reason))
