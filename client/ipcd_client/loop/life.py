"""What is known of one connection on an event loop, from its hello to its end, and what is sent over it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import grpc

from ipcd_client.errors import (
    ChannelClosed,
    IpcdError,
    ProtocolError,
    WireClosed,
    WireError,
    WireTimeout,
    without_frames,
)
from ipcd_client.frame import events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Buffer
from ipcd_client.frame.connection import Connection as Core
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.alarms import Alarms
from ipcd_client.loop.stream import close_all
from ipcd_client.loop.waiters import Waiters
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.wire import tidy
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

# Senders of streamed messages wait while the wire is this far behind, in bytes.
BACKLOG_HIGH: Final = 1 << 20
# A connection further behind than this is closed: its peer asks and does not read the answers.
BACKLOG_MOST: Final = 64 << 20
# Seconds for the peer's HELLO.
HELLO_TIMEOUT: Final = 5.0
# What is sent while several calls run is held until the loop's next turn, and goes as one piece up to this size, in
# bytes.
_TOGETHER: Final = 32 << 10
# The socket is writable and yet takes nothing: too many descriptors of this user are in flight (ETOOMANYREFS).
# Seconds until it is tried again; the loop would spin otherwise.
_STUCK: Final = 0.02
# What a connection holds is looked at after so many bytes that came, and again and again, in seconds, while it holds
# something.
WEIGHED_EACH: Final = 64 << 10
_WEIGHED_EVERY: Final = 0.25
# Bytes that a message costs beside its own.
_MESSAGE_COST: Final = 128


class User(Protocol):
    """Who is told about a call's news, as `call.user`."""

    def progressed(self) -> None:
        """An event of the call was taken in, or the connection has ended."""


class Guard(Protocol):
    """Who watches over what the peer of a connection makes this end do and keep."""

    turn: int  # frames that are taken in before other connections have their turn

    def took(self, frames: int, size: int) -> float:
        """So many were taken in, of so many bytes: seconds for which no more are."""

    def holds(self, size: int) -> IpcdError | None:
        """The connection holds so many bytes of or for the peer: why that is too much."""


OnCall = Callable[[events.CallOpened, list[Fd]], None]
OnClosed = Callable[[IpcdError], None]


class Life(ABC):
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
        guard: Guard | None = None,
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
        self.alarms = Alarms(self._loop)  # the deadlines of calls that the peer has made
        self._backlog_most = backlog_most
        self._guard = guard
        self._unweighed = 0  # bytes that came since what is held was looked at
        self._weighing: asyncio.TimerHandle | None = None
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

    @abstractmethod
    def _on_readable(self) -> None:
        """Takes in what has arrived."""

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

    # -- the end ----------------------------------------------------------------------------------

    def retire(self) -> None:
        """Makes no new calls; the connection is closed when the last one has ended."""
        self.retired = True
        self._closes_idle = True
        if not self._calls:
            self._loop.call_soon(self._close_idle)

    def _close_idle(self) -> None:
        if not self._calls:
            self.fail(WireClosed("the connection is not used any more"))

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
        for handle in (self._hello_timer, self._again, self._checking, self._weighing):
            if handle is not None:
                handle.cancel()
        self.alarms.close()
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
        if self._guard is not None:
            self._guard.holds(0)
        for call in calls:
            if isinstance(call, ClientCall):
                # One whose beginning the peer has not seen may be tried elsewhere.
                call.refused = call.sent_at > seen
                call.fail(code, str(error))
            else:
                call.cancel(str(error))
            close_all(call.fds)
            progressed(call)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(None)
        self._news.progressed()
        on_closed, self.on_closed, self.on_call = self.on_closed, None, None
        if on_closed is not None:
            on_closed(error)

    def _check(self) -> None:
        every = self.wire.check_every
        if every is not None and self.error is None:
            self.wire.check()  # a wire that this ends becomes readable
            self._checking = self._loop.call_later(every, self._check)

    def _no_hello(self, timeout: float) -> None:
        error = WireTimeout(f"no-hello: {self.wire.peer()} sent no HELLO within {timeout:g} s")
        self.fail(error, goaway=limits.GOAWAY_TIMEOUT)

    # -- sending ----------------------------------------------------------------------------------

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

    def _send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = (), *, more: bool = False) -> None:
        """Queues and sends what goes; with `more`, with what comes next in the loop's turn. A failure is left for the
        reader to find, as the wire is then readable."""
        if self.error is not None or not buffers:
            close_all(fds)
            return
        # Large payloads are buffers of their own.
        if len(buffers) > 1 and any(len(buffer) >= tidy.LARGE for buffer in buffers):
            self._large()
        if fds:
            self._release()
            self._write(buffers, fds)
        elif more or self._held or len(self._calls) > 1:
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
        if self._guard is not None and self._weighing is None:
            self._weighing = self._loop.call_later(0, self._weigh)
        if self.wire.grown:
            tidy.grown(self)
        self._writing = True
        self._loop.add_writer(self._fd, self._on_writable)

    def _weigh(self) -> None:
        """Tells the guard what is held, also later, until that is nothing."""
        if self._weighing is not None:
            self._weighing.cancel()
            self._weighing = None
        if self._guard is None or self.error is not None:
            return
        self._unweighed = 0
        waiting = self.wire.backlog + self._held_size + self.core.unfinished()
        for call in self._calls.values():
            if call.messages:
                waiting += sum(len(message) + _MESSAGE_COST for message, _ in call.messages)
        refusal = self._guard.holds(waiting + self.core.named())
        if refusal is not None:
            # Not from inside whoever sends.
            self._loop.call_soon(self.fail, refusal, limits.GOAWAY_EXHAUSTED)
        elif waiting:
            self._weighing = self._loop.call_later(_WEIGHED_EVERY, self._weigh)

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


def progressed(call: ClientCall | ServerCall) -> None:
    if call.user is not None:
        call.user.progressed()
