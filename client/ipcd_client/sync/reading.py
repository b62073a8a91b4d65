"""Who reads a connection, and how threads wait for it.

There is no thread of the connection's own. Whoever waits for something *reads* for all: takes the reading role, drains
the wire into the calls until its own condition holds, then passes the role on to another waiter. A thread that finds
the role taken sleeps until its call has news or the role is free. On a server, connections on which nobody waits are
read by its reactor.

What guards what is in `life.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from ipcd_client.errors import Exhausted, IpcdError, NotAllowed, WireClosed, WireStarved, WireTimeout
from ipcd_client.frame import events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Frame
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.sync import waker
from ipcd_client.sync.life import FRESH, Life
from ipcd_client.sync.waiting import Waiter
from ipcd_client.wire import tidy

# What may wait to be sent, in bytes: for a peer that reads less the connection is ended.
BACKLOG_MOST: Final = 64 << 20
# While more than this waits for a caller to read, in bytes, a server reads nothing of it: what it asks for would only
# be more that it does not read.
_STALLED: Final = 1 << 20
# Seconds for the peer's HELLO.
HELLO_TIMEOUT: Final = 5.0
# A writer looks this often, in seconds, whether the reader that it relies on has gone.
_FLUSH_SLICE: Final = 0.05
# And so does a reader that nobody can wake, for what other threads have changed.
_PARK_SLICE: Final = 0.02
# Frames read in one turn of a server's reactor before other connections get theirs.
_TURN: Final = 64
# What a GOAWAY with these codes is raised as.
_GOAWAYS: Final[dict[int, type[IpcdError]]] = {
    limits.GOAWAY_DENIED: NotAllowed,
    limits.GOAWAY_EXHAUSTED: Exhausted,
}


class Reading(Life):
    """Adds the waiting: one thread reads for all. `dialer`: whether this end opened the connection."""

    # -- waiting ----------------------------------------------------------------------------------

    def handshake(self, timeout: float = HELLO_TIMEOUT) -> None:
        """Waits for the peer's hello, for at most `timeout` seconds.

        Raises:
            IpcdError: why there is no connection: it did not come, versions differ, the peer refused.
        """
        if not self.wait(0, lambda: self.core.ready and self.wire.agreed, monotonic() + timeout):
            self.say_no_hello(timeout)
        if self.error is not None:
            raise self.error

    def say_no_hello(self, timeout: float) -> None:
        """Ends the connection because the peer's hello did not come in time."""
        text = f"no-hello: {self.wire.peer()} sent no HELLO within {timeout:g} s"
        self.fail(WireTimeout(text), goaway=limits.GOAWAY_TIMEOUT)

    def wait(self, stream: int, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Waits until `ready()`, which looks at state that events of `stream` change (0: of the connection), or the
        connection has ended. Reads for all meanwhile, if nobody does. False: the deadline (of time.monotonic()) came
        first."""
        while not ready() and self.error is None:
            if self._host is not None:
                self._host.about_to_wait()
            with self._lock:
                if ready() or self.error is not None:
                    return True
                waiter = None
                if self._reading:
                    waiter = self._waiting.add(stream)
                else:
                    self._reading = True
            if waiter is None:
                # What this was ready for, another thread may have taken meanwhile: then it goes on.
                self._read_for_all(ready, deadline)
            else:
                try:
                    waiter.sleep(deadline)
                finally:
                    self._stop_waiting(stream, waiter)
            if deadline is not None and monotonic() >= deadline:
                return ready() or self.error is not None
        return True

    def refresh(self) -> None:
        """Looks for the peer's end or goaway, if nothing has come for a while: a call that is sent into a connection
        that has ended would fail, where one that was not sent yet may go elsewhere."""
        now = monotonic()
        if now - self._last_used > FRESH and not self._calls:
            self.look()
        self._last_used = now

    def look(self) -> None:
        """Takes in what has arrived, without waiting; nothing if another thread reads."""
        with self._lock:
            if self._reading or self.error is not None:
                return
            self._reading = True
        try:
            self._pump(_TURN)
            if self._poll(0):
                self._pump(_TURN)
            self._hand_over()
        finally:
            self._stop_reading()

    def flush(self, call: ClientCall | ServerCall | None, deadline: float | None) -> None:
        """Waits until all is sent, or the call or the connection has ended, or the deadline is over.

        Reads meanwhile: the peer may be unable to read because it waits for us to.
        """
        stream = call.stream if call is not None else 0

        def ready() -> bool:
            return not self.wire.backlog or bool(stream and stream not in self._calls)

        while not ready() and self.error is None and (deadline is None or monotonic() < deadline):
            if self._host is not None:
                self._host.about_to_wait()
            with self._lock:
                mine = not self._reading
                if mine:
                    self._reading = True
            if mine:
                self._read_for_all(ready, deadline)
            else:
                left = _FLUSH_SLICE if deadline is None else min(_FLUSH_SLICE, deadline - monotonic())
                self.wire.poll_write(max(0.0, left))
                self._flush_now()

    def ping(self, timeout: float) -> float:
        """Seconds until the peer's library answered.

        Raises:
            WireTimeout: it did not within `timeout` seconds.
            IpcdError: the connection has ended.
        """
        start = monotonic()
        with self._lock:
            if self.error is not None:
                raise self.error
            self._pings += 1
            payload = self._pings.to_bytes(8, "little")
            self._push(self.core.ping(payload))
        if not self.wait(0, lambda: payload in self._pongs, start + timeout):
            raise WireTimeout(f"{self.wire.peer()} did not answer a ping within {timeout:g} s")
        if self.error is not None:
            raise self.error
        self._pongs.discard(payload)
        return monotonic() - start

    # -- for a reactor ----------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """The peer does not read, so that nothing is read of it either. Shared memory has a bound of its own."""
        return self.wire.backlog > _STALLED and self.wire.kind != "shm"

    def turn(self, most: int) -> list[ServerCall]:
        """Reads what has arrived, up to so many frames, and flushes what it can. The calls that the peer has opened."""
        wire = self.wire
        if wire.backlog:
            self._flush_now()
            if self.stalled:
                return []
        with self._lock:
            if self._reading or self.error is not None:
                return []
            self._reading = True
        calls: list[ServerCall] = []
        plain: ServerCall | None = None
        try:
            received = wire.glance() if self._greeted else None
            if received is not None:
                # Most often one call of the plainest sort is all that has arrived.
                with self._lock:
                    opened = None if self.retired else self.core.take_open(received)
                    if opened is not None:
                        plain = self._calls[opened[0]] = ServerCall(opened, self._max_message)
                        self._reading = False
                        if self._waiting:
                            self._waiting.wake_one()
                        return [plain]
                wire.put_back(received)
            self._pump(most)
            calls, self._opened = self._opened, []
        except MemoryError:
            self._break(WireStarved(wire.peer()))
        finally:
            if plain is None:
                self._stop_reading(resume=False)
        return calls

    # -- the end ----------------------------------------------------------------------------------

    def close(self, why: str | IpcdError = "the connection was closed on this side", timeout: float = 1.0) -> None:
        """Sends what is queued, for at most `timeout` seconds, and ends the connection."""
        if self.error is None and self.wire.backlog:
            self.flush(None, monotonic() + timeout)
        self.fail(WireClosed(why) if isinstance(why, str) else why)

    def retire(self) -> None:
        """Makes no new calls; the connection is closed when the last one has ended."""
        with self._lock:
            # Who has just chosen this connection finds no call open, or has opened one: nothing between the two.
            self.core.going_away = True
            self.retired = True
            self._closes_idle = True
        if self.idle:
            self.close()

    # -- inside -----------------------------------------------------------------------------------

    def _read_for_all(self, ready: Callable[[], bool], deadline: float | None) -> None:
        """By the thread that has taken the role, which is free again when this returns."""
        if self._host is not None:
            self._host.pause(self)
        try:
            self._read_until(ready, deadline)
        finally:
            self._stop_reading()

    def _read_until(self, ready: Callable[[], bool], deadline: float | None) -> None:
        wire = self.wire
        while True:
            self._pump(_TURN)
            self._hand_over()
            if ready() or self.error is not None:
                return
            if self._more:
                continue
            timeout = None
            if deadline is not None:
                timeout = deadline - monotonic()
                if timeout <= 0:
                    return
            if wire.backlog:
                self._park(ready, timeout)
                self._flush_now()
            elif not self._spinner.spin(wire.peek, timeout):
                self._park(ready, timeout)

    def _park(self, ready: Callable[[], bool], timeout: float | None) -> None:
        """Waits for the wire, or for another thread to change what `ready` looks at."""
        mine = waker.mine()
        if mine is None:
            # Out of descriptors. The connection is there, and what comes over it is seen at once.
            self._poll(_PARK_SLICE if timeout is None else min(_PARK_SLICE, timeout), write=bool(self.wire.backlog))
            return
        with self._lock:
            if ready() or self.error is not None:
                return
            self._parked = mine
        try:
            self._poll(timeout, write=bool(self.wire.backlog), also=mine.fileno())
        finally:
            with self._lock:
                self._parked = None
            mine.clear()

    def _pump(self, most: int) -> None:
        """Takes in up to `most` frames."""
        wire = self.wire
        recv = wire.recv
        self._more = False
        try:
            for _ in range(most):
                frame = recv()
                if frame is None:
                    return
                self._take_in(frame)
                if wire.drained:
                    return
            self._more = True
        except IpcdError as error:
            self._break(error)
        except MemoryError:
            self._break(WireStarved(wire.peer()))

    def _take_in(self, frame: Frame) -> None:
        core = self.core
        if len(frame.payload) >= tidy.LARGE:
            tidy.large(self)
        with self._lock:
            event = core.receive(frame)
            fds = self.wire.take_fds(frame.fds) if frame.fds else None
            if core.outbox:
                self._answer()
            call = self._called(event)
            if call is None or event is None:
                for fd in fds or ():
                    fd.close()
            else:
                if fds:
                    call.fds.extend(fds)
                call.handle(event)
                self._handled(call)
            news, self._news = self._news, []
        for user in news:
            user.progressed()
        if self._closes_idle and self.idle:
            self.close()

    def _handled(self, call: ClientCall | ServerCall) -> None:
        """The call has taken an event in: whether that ended it, and who must know."""
        stream = call.stream
        if isinstance(call, ClientCall):
            if call.code is not None:
                del self._calls[stream]
                if self.core.is_open(stream):
                    # Ended on this side only, as for a message over the limit.
                    self._push(self.core.reset(stream, limits.RESET_CANCEL))
        elif call.cancelled is not None:
            self._calls.pop(stream, None)
        if stream in self._waiting:
            self._waiting.wake(stream)
        if call.user is not None:
            self._news.append(call.user)

    def _answer(self) -> None:
        """Sends what the core answers by itself."""
        answers, self.core.outbox = self.core.outbox, []
        self._push(answers)
        if self.wire.backlog > BACKLOG_MOST:
            raise WireClosed(f"{self.wire.peer()} reads too little: {self.wire.backlog} bytes wait")

    def _called(self, event: events.Event | None) -> ClientCall | ServerCall | None:
        """The call that the event is for. An event that is for none is dealt with here."""
        if event is None:
            return None
        if isinstance(event, events.CallOpened):
            # From here on its events are taken in: some may be right behind.
            opened = ServerCall(event, self._max_message)
            self._calls[event.stream] = opened
            self._opened.append(opened)
            return None
        if isinstance(event, (events.HelloReceived, events.PongReceived, events.GoAwayReceived)):
            self._on_connection_event(event)
            return None
        return self._calls.get(event.stream)

    def _on_connection_event(self, event: events.HelloReceived | events.PongReceived | events.GoAwayReceived) -> None:
        if isinstance(event, events.HelloReceived):
            self.wire.max_frame = self.settings.max_frame
            self._greeted = True
        elif isinstance(event, events.PongReceived):
            if len(self._pongs) < 1024:
                self._pongs.add(event.payload)
        else:
            self.retired = True
            for stream in event.refused:
                call = self._calls.pop(stream, None)
                if call is not None:
                    call.handle(events.ResetReceived(stream, limits.RESET_REFUSED, event.reason))
                    self._waiting.wake(stream)
                    if call.user is not None:
                        self._news.append(call.user)
            if event.code != limits.GOAWAY_DRAIN:
                kind = _GOAWAYS.get(event.code, WireClosed)
                raise kind(f"{self.wire.peer()} ended the connection: {event.reason}")
        self._waiting.wake(0)

    def _hand_over(self) -> None:
        """By the thread that has the role."""
        opened, self._opened = self._opened, []
        if self._host is not None and opened:
            self._host.adopt(self, opened)

    def _flush_now(self) -> None:
        try:
            with self._lock:
                self.wire.flush()
        except IpcdError as error:
            self.fail(error)

    def _stop_waiting(self, stream: int, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.remove(stream, waiter)
            if not self._reading:
                # The role may have been offered to this thread, which perhaps has no more use for it.
                self._waiting.wake_one()

    def _stop_reading(self, *, resume: bool = True) -> None:
        with self._lock:
            self._reading = False
            if self.error is None:
                if self._waiting:
                    self._waiting.wake_one()
            else:
                self.wire.abort()
                return
        if self._host is not None:
            if resume:
                self._host.resume(self)
            if self._more:
                self._host.read_again(self)
