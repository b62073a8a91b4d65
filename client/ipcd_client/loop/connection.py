"""One connection driven by an event loop.

Everything happens on the loop's thread, so there are no locks: the loop says when the wire is readable or writable,
`_on_readable` feeds the pure cores, and tasks that wait are woken. Nothing here waits inside a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import grpc

from ipcd_client.errors import (
    ChannelClosed,
    IpcdError,
    ProtocolError,
    UsageError,
    WireClosed,
    WireError,
    WireTimeout,
    without_frames,
)
from ipcd_client.frame import events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import HEADER_SIZE, Buffer, Frame, Metadata, Payload
from ipcd_client.frame.connection import Connection as Core
from ipcd_client.frame.connection import StreamsExhausted
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.stream import ClientStream, close_all
from ipcd_client.loop.waiters import Waiters
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire import tidy
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

# Senders of streamed messages wait while the wire is this far behind, in bytes.
BACKLOG_HIGH: Final = 1 << 20
# A connection further behind than this is closed: its peer asks and does not read the answers.
BACKLOG_MOST: Final = 64 << 20
# Seconds for the peer's HELLO.
HELLO_TIMEOUT: Final = 5.0
# Frames taken in before other callbacks of the loop get their turn.
_TURN: Final = 64
# What is sent while several calls run is held until the loop's next turn, and goes as one piece up to this size, in
# bytes.
_TOGETHER: Final = 32 << 10
# The socket is writable and yet takes nothing: too many descriptors of this user are in flight (ETOOMANYREFS).
# Seconds until it is tried again; the loop would spin otherwise.
_STUCK: Final = 0.02


class User(Protocol):
    """Who is told about a call's news, as `call.user`."""

    def progressed(self) -> None:
        """An event of the call was taken in, or the connection has ended."""


OnCall = Callable[[events.CallOpened, list[Fd]], None]
OnClosed = Callable[[IpcdError], None]


class Connection:
    """One end, owned by the running loop. `dialer`: whether this end opened the connection.

    Says HELLO at once. Without `on_call`, calls of the peer are refused.
    """

    def __init__(
        self,
        wire: Wire,
        settings: Settings,
        *,
        dialer: bool,
        on_call: OnCall | None = None,
        on_closed: OnClosed | None = None,
        hello_timeout: float = HELLO_TIMEOUT,
        backlog_most: int = BACKLOG_MOST,
    ) -> None:
        self.wire = wire
        self.settings = settings
        self.core = Core(dialer=dialer, settings=settings)
        self.on_call = on_call
        self.on_closed = on_closed
        self.error: IpcdError | None = None  # why it ended
        self.retired = False  # the peer takes no new calls, or no stream id is left
        self._settled = False  # the peer has said hello, and what the wire goes over is agreed
        self._closes_idle = False
        self._shrinks = True  # as far as is known, there is memory to give back
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()  # when the last frame came
        self._backlog_most = backlog_most
        self._calls: dict[int, ClientCall | ServerCall] = {}
        self._news = Waiters()  # of the connection: hello, its end, room in the backlog, no calls left
        self._pongs: dict[bytes, asyncio.Future[None]] = {}
        self._pings = 0
        self._again: asyncio.Handle | None = None
        self._writing = False
        self._held: list[Buffer] = []  # to be sent in the loop's next turn
        self._held_size = 0
        self._fd = wire.fileno()
        self._loop.add_reader(self._fd, self._on_readable)
        self._hello_timer: asyncio.TimerHandle | None = self._loop.call_later(
            hello_timeout, self._no_hello, hello_timeout
        )
        self._checking: asyncio.TimerHandle | None = None
        self._send(self.core.hello())
        self._check()

    # -- facts ------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Calls in flight."""
        return len(self._calls)

    @property
    def usable(self) -> bool:
        """New calls may be made."""
        return self.error is None and not self.retired and self.core.ready

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not self._calls

    async def handshake(self) -> None:
        """Waits for the peer's hello, and until it is settled what the wire goes over; the deadline for both runs since
        the connection was made.

        Raises:
            IpcdError: why there is no connection: it did not come, versions differ, the peer refused.
        """
        while self.error is None and not self._settled:
            await self._news.wait()
        if self.error is not None:
            raise self.error

    async def closed(self) -> IpcdError:
        """Waits for the end of the connection, and says why."""
        while self.error is None:
            await self._news.wait()
        return self.error

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
                call.sent_at = self.wire.sent + self._held_size
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
        call.sent_at = self.wire.sent + self._held_size

    def end(self, call: ClientCall, code: grpc.StatusCode, details: str, reset: int = limits.RESET_CANCEL) -> bool:
        """Ends a call from this side, and tells the peer. False if it has ended already."""
        if not call.fail(code, details):
            return False
        self._forget(call.stream)
        self._send(self.core.reset(call.stream, reset))
        close_all(call.fds)
        _progressed(call)
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
        self, call: ClientCall | ServerCall, message: Buffer, *, end: bool = False, fds: Sequence[Fd] = ()
    ) -> bool:
        """Sends one message, whatever the credit. False: the call has ended, nothing was sent, and `fds` are closed."""
        if call.stream not in self._calls:
            close_all(fds)
            return False
        self._send(self.core.message(call.stream, message, end=end, fds=len(fds)), fds)
        return True

    async def send(
        self,
        call: ClientCall | ServerCall,
        message: Buffer,
        *,
        end: bool = False,
        fds: Sequence[Fd] = (),
    ) -> bool:
        """Sends one message once there is credit and room. `fds` are owned by the connection from here on.
        False: the call has ended, nothing was sent."""
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
        return self.send_now(call, message, end=end, fds=fds)

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
            _progressed(call)

    def refuse(self, stream: int, reason: str) -> None:
        """Tells the caller that no handler has seen the call, so that it may try elsewhere."""
        self._forget(stream)
        self._send(self.core.reset(stream, limits.RESET_REFUSED, reason))

    def drain(self, reason: str) -> None:
        """Takes no new calls; those under way go on."""
        self._send(self.core.drain(reason))

    def retire(self) -> None:
        """Makes no new calls; the connection is closed when the last one has ended."""
        self.retired = True
        self._closes_idle = True
        if not self._calls:
            self._loop.call_soon(self._close_idle)

    def _close_idle(self) -> None:
        if not self._calls:
            self.fail(WireClosed("the connection is not used any more"))

    # -- the connection ---------------------------------------------------------------------------

    async def ping(self, timeout: float) -> float:
        """Seconds until the peer's library answered.

        Raises:
            WireTimeout: it did not within `timeout` seconds.
            IpcdError: the connection has ended.
        """
        if self.error is not None:
            raise self.error
        self._pings += 1
        payload = self._pings.to_bytes(8, "little")
        pong = self._pongs[payload] = self._loop.create_future()
        start = self._loop.time()
        try:
            self._send(self.core.ping(payload))
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError:
            raise WireTimeout(f"{self.wire.peer()} did not answer a ping within {timeout:g} s") from None
        finally:
            self._pongs.pop(payload, None)
        if self.error is not None:
            raise self.error
        return self._loop.time() - start

    async def close(self, why: str = "the connection was closed on this side", timeout: float = 1.0) -> None:
        """Sends what is queued, for at most `timeout` seconds, and ends the connection."""
        try:
            self._release()
            async with asyncio.timeout(timeout):
                while self.error is None and self.wire.backlog:
                    await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self.fail(WireClosed(why))

    def fail(self, error: IpcdError, goaway: int | None = None) -> None:
        """Ends the connection and every call on it. The first reason stays. `goaway`: tells the peer that code and
        the text first, if it takes them at once."""
        if self.error is not None:
            return
        self._release()
        self.error = without_frames(error)
        self.retired = True
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if self._again is not None:
            self._again.cancel()
        if self._checking is not None:
            self._checking.cancel()
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        if goaway is not None:
            try:
                self.wire.send(self.core.goaway(goaway, str(error)))
            except IpcdError:
                pass
        seen = self.wire.sent - (self.wire.untaken() if isinstance(error, WireClosed) else 0)
        self.wire.abort()
        tidy.gone(self)
        code = error.code if isinstance(error, ChannelClosed) else grpc.StatusCode.UNAVAILABLE
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            if isinstance(call, ClientCall):
                # One whose beginning the peer has not seen may be tried elsewhere.
                call.refused = call.sent_at > seen
                call.fail(code, str(error))
            else:
                call.cancel(str(error))
            close_all(call.fds)
            _progressed(call)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(None)
        self._news.progressed()
        on_closed, self.on_closed, self.on_call = self.on_closed, None, None
        if on_closed is not None:
            on_closed(error)

    # -- inside -----------------------------------------------------------------------------------

    def _check(self) -> None:
        every = self.wire.check_every
        if every is not None and self.error is None:
            self.wire.check()  # a wire that this ends becomes readable
            self._checking = self._loop.call_later(every, self._check)

    def _no_hello(self, timeout: float) -> None:
        error = WireTimeout(f"no-hello: {self.wire.peer()} sent no HELLO within {timeout:g} s")
        self.fail(error, goaway=limits.GOAWAY_TIMEOUT)

    def _on_readable(self) -> None:
        self._again = None
        wire = self.wire
        if wire.backlog:
            # Shared memory tells of room as it tells of news.
            self._on_writable()
            if self.error is not None:
                return
        try:
            self._read()
        except ProtocolError as error:
            goaway = limits.GOAWAY_VERSION if error.violation == "no-common-version" else limits.GOAWAY_VIOLATION
            self.fail(error, goaway=goaway)
        except IpcdError as error:
            self.fail(error)
        if not self._settled:
            self._look_settled()

    def _look_settled(self) -> None:
        if self.core.ready and self.wire.agreed and self.error is None:
            self._settled = True
            if self._hello_timer is not None:
                self._hello_timer.cancel()
                self._hello_timer = None
            self._news.progressed()

    def _read(self) -> None:
        """Takes in what has arrived, up to a bound."""
        recv, wire = self.wire.recv, self.wire
        if self._settled:
            received = wire.glance()
            if received is not None:
                rest = self._take_plain(received)
                if not rest or self.error is not None:
                    return
                wire.put_back(rest)
        for _ in range(_TURN):
            frame = recv()
            if frame is None:
                return
            self._take_in(frame)
            if self.error is not None or wire.drained:
                return
        # What is left may be in the wire's own buffer, of which the loop knows nothing.
        self._again = self._loop.call_soon(self._on_readable)

    def _take_plain(self, data: bytes) -> bytes:
        """Takes in whole frames that open or answer calls of the plainest sort, up to the first that is anything else:
        what is left."""
        at, size = 0, len(data)
        while size - at >= HEADER_SIZE:
            end = at + HEADER_SIZE + int.from_bytes(data[at : at + 4], "little")
            if end > size or not self._take_one(data[at:end]) or self.error is not None:
                break
            at = end
        return data[at:]

    def _take_one(self, frame: bytes) -> bool:
        core = self.core
        stream = int.from_bytes(frame[4:8], "little")
        call = self._calls.get(stream)
        if isinstance(call, ClientCall):
            answer = core.take_answer(frame, stream)
            if answer is None:
                return False
            call.succeed(answer)
            self._forget(stream)
            _progressed(call)
        else:
            opened = core.take_open(frame) if call is None and self.on_call is not None else None
            if opened is None:
                return False
            assert self.on_call is not None
            self.on_call(events.CallOpened._make(opened), [])
        self.heard = self._loop.time()
        return True

    def _take_in(self, frame: Frame) -> None:
        core = self.core
        self.heard = self._loop.time()
        event = core.receive(frame)
        if len(frame.payload) >= tidy.LARGE:
            self._large()
        fds = self.wire.take_fds(frame.fds) if frame.fds else []
        if core.outbox:
            answers, core.outbox = core.outbox, []
            self._send(answers)
        if event is None:
            close_all(fds)
        elif isinstance(event, events.CallOpened):
            if self.on_call is None:
                close_all(fds)
                self.refuse(event.stream, "this end takes no calls")
            else:
                self.on_call(event, fds)
        elif isinstance(event, (events.HelloReceived, events.PongReceived, events.GoAwayReceived)):
            close_all(fds)
            self._on_connection_event(event)
        else:
            self._on_call_event(event, fds)

    def _on_call_event(
        self,
        event: events.HeadersReceived
        | events.MessageReceived
        | events.SendClosed
        | events.StatusReceived
        | events.ResetReceived
        | events.CreditReceived,
        fds: list[Fd],
    ) -> None:
        call = self._calls.get(event.stream)
        if call is None:
            close_all(fds)
            return
        call.fds.extend(fds)
        call.handle(event)
        if isinstance(call, ClientCall):
            if call.code is not None:
                self._forget(event.stream)
                # Ended on this side only, as for a message over the limit.
                self._send(self.core.reset(event.stream, limits.RESET_CANCEL))
        elif call.cancelled is not None:
            self._forget(event.stream)
        _progressed(call)

    def _on_connection_event(self, event: events.HelloReceived | events.PongReceived | events.GoAwayReceived) -> None:
        if isinstance(event, events.PongReceived):
            pong = self._pongs.get(event.payload)
            if pong is not None and not pong.done():
                pong.set_result(None)
            return
        if isinstance(event, events.HelloReceived):
            self.wire.max_frame = self.settings.max_frame
        else:
            self.retired = True
            for stream in event.refused:
                self._on_call_event(events.ResetReceived(stream, limits.RESET_REFUSED, event.reason), [])
            if event.code == limits.GOAWAY_DENIED:
                raise Denied(event.reason)
            if event.code != limits.GOAWAY_DRAIN:
                raise WireClosed(f"{self.wire.peer()} ended the connection: {event.reason}")
        self._news.progressed()

    def _forget(self, stream: int) -> None:
        self._calls.pop(stream, None)
        if not self._calls:
            self._news.progressed()
            if self._closes_idle:
                self._loop.call_soon(self._close_idle)

    def _put(self, frame: bytes) -> None:
        """Sends one small whole frame: at once while this is the only call, else with what others send in this turn of
        the loop. So the peer is woken once for all of it."""
        if self._held or len(self._calls) > 1:
            self._hold((frame,))
            return
        quick = self.wire.quick
        try:
            if quick is not None and quick.put(frame):
                return
        except ProtocolError as error:
            self._loop.call_soon(self.fail, error)
            return
        self._write((frame,))

    def _hold(self, buffers: Sequence[Buffer]) -> None:
        if not self._held:
            self._loop.call_soon(self._release)
        self._held += buffers
        self._held_size += sum(map(len, buffers))

    def _release(self) -> None:
        held, self._held = self._held, []
        size, self._held_size = self._held_size, 0
        if held and self.error is None:
            self._write((b"".join(held),) if size <= _TOGETHER else held)

    def _send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> None:
        """Queues and sends what goes. A failure is left for the reader to find, as the wire is then readable."""
        if self.error is not None or not buffers:
            close_all(fds)
            return
        # Large payloads are buffers of their own.
        if len(buffers) > 1 and any(len(buffer) >= tidy.LARGE for buffer in buffers):
            self._large()
        if fds:
            self._release()
            self._write(buffers, fds)
        elif self._held or len(self._calls) > 1:
            self._hold(buffers)
        else:
            self._write(buffers)

    def _write(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> None:
        try:
            sent = self.wire.send(buffers, fds)
        except WireClosed:
            return
        if sent or self._writing:
            if self.wire.backlog > self._backlog_most:
                # Not from inside whoever sends: they do not expect the end of the connection there.
                self._loop.call_soon(self._too_far_behind)
            return
        if self.wire.grown:
            tidy.grown(self)
        self._writing = True
        self._loop.add_writer(self._fd, self._on_writable)

    def _large(self) -> None:
        self._shrinks = True
        tidy.large(self)

    def tidy(self) -> bool:
        """Gives memory back that large messages have needed. True while there is more. (`tidy.Grown`, in its thread)"""
        if self.error is not None:
            return False
        try:
            self._loop.call_soon_threadsafe(self._shrink)
        except RuntimeError:
            return False  # the loop is closed
        return self._shrinks

    def _shrink(self) -> None:
        if self.error is None:
            try:
                self._shrinks = self.wire.shrink()
            except WireClosed:
                self._shrinks = False  # the reader finds out

    def _too_far_behind(self) -> None:
        if self.error is None and self.wire.backlog > self._backlog_most:
            self.fail(
                TooFarBehind(
                    f"backlog: {self.wire.peer()} does not read: {self.wire.backlog} bytes wait, "
                    f"the limit is {self._backlog_most}"
                )
            )

    def _on_writable(self) -> None:
        before = self.wire.backlog
        try:
            done = self.wire.flush()
        except IpcdError as error:
            self.fail(error)
            return
        if done or self.wire.backlog == before:
            self._loop.remove_writer(self._fd)
            self._writing = False
            if not done:
                self._loop.call_later(_STUCK, self._write_again)
        if self.wire.backlog < BACKLOG_HIGH:
            self._news.progressed()

    def _write_again(self) -> None:
        if self.error is None and not self._writing and self.wire.backlog:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)


class TooFarBehind(WireError):
    """The peer does not read what it asked for."""


class Denied(WireClosed):
    """The peer refused the connection for who we are; the text names identity and rule."""

    code = grpc.StatusCode.PERMISSION_DENIED


def _progressed(call: ClientCall | ServerCall) -> None:
    if call.user is not None:
        call.user.progressed()
