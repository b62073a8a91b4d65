"""The life of a connection that threads drive: its state, what guards that, and how it ends.

Locks and order:

- `_lock` guards the core, the table of calls, the sending side of the wire, the role, and the waiters. It is never held
  while waiting, and no code of users runs under it. State of a call changes only under it, so "check, then register as
  a waiter" loses no wake-up: who changes the state afterwards sees the waiter.
- The receiving side of the wire belongs to the holder of the role. Only the holder closes the wire's descriptor; others
  shut it down, which wakes the holder: else it could poll a number that the kernel has given to another file by then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

import grpc

from ipcd_client.errors import ChannelClosed, IpcdError, ProtocolError, WireClosed, without_frames
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Buffer
from ipcd_client.frame.connection import Connection as Core
from ipcd_client.frame.settings import Settings
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.sync import spin
from ipcd_client.sync.host import Host, User
from ipcd_client.sync.pump import Pump
from ipcd_client.sync.waiting import Waiters
from ipcd_client.sync.waker import Waker
from ipcd_client.wire import tidy
from ipcd_client.wire.base import Wire

# A connection that was used within this many seconds is believed to live.
FRESH: Final = 0.1

_live: weakref.WeakSet[Life] = weakref.WeakSet()


class Life:
    """What is known of one connection, from its hello to its end. `dialer`: whether this end opened it."""

    def __init__(self, wire: Wire, settings: Settings, *, dialer: bool, host: Host | None = None) -> None:
        self.wire = wire
        self.settings = settings
        self.core = Core(dialer=dialer, settings=settings)
        self._max_message = settings.max_message
        # Half of what makes the peer be told: the one lock for many messages.
        self._give_back_at = settings.initial_window // 4
        self.error: IpcdError | None = None  # why it ended
        self._closes_idle = False
        self.retired = False  # the peer takes no new calls, or no stream id is left
        self.on_closed: Callable[[IpcdError], None] | None = None
        self._host = host
        self._lock = threading.Lock()
        self._calls: dict[int, ClientCall | ServerCall] = {}
        self._reading = False
        self._waiting = Waiters()
        self._parked: Waker | None = None  # of the reader, while it is in poll
        self._asked = 0  # stream of the call that the reader made by `ask`; it is not in _calls
        self._seen = 0  # how much of what the wire was given the peer has seen, once the connection has ended
        self._opened: list[ServerCall] = []
        self._greeted = False  # the peer's hello was taken in
        self._more = False  # the last turn of reading ended at its bound
        self._last_used = monotonic()
        self.look_at = 0.0  # when whoever calls over it is to look for news elsewhere
        self._news: list[User] = []  # to be told once the lock is free
        self._pongs: set[bytes] = set()
        self._pings = 0
        self._pump_thread: Pump | None = None
        self._spinner = spin.Spinner(spin.budget())
        self._poll = wire.poll
        _live.add(self)
        self._send_hello()

    def _send_hello(self) -> None:
        # A failure is left for the reader to find: a peer that has gone may have said why.
        with contextlib.suppress(WireClosed), self._lock:
            self.wire.send(self.core.hello())

    # -- facts ------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """New calls may be made."""
        return self.error is None and not self.retired

    @property
    def locked(self) -> bool:
        """A thread is changing it: perhaps this one, where a destructor asks."""
        return self._lock.locked()

    @property
    def load(self) -> int:
        """Calls in flight."""
        return len(self._calls) + (1 if self._asked else 0)

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not self._calls and not self._asked

    def fresh(self) -> bool:
        """New calls may be made, and it was used so recently that it is believed to live."""
        now = monotonic()
        if now - self._last_used >= FRESH:
            # Not used until it was looked at: `refresh` goes by the same time.
            return False
        self._last_used = now
        return now < self.look_at and self.error is None and not self.retired

    # -- sending ----------------------------------------------------------------------------------

    def _push(self, buffers: Sequence[Buffer]) -> bool:
        """Sends, under the lock; a failure is left for the reader to find, as the wire is then readable. True if
        nothing is left in the backlog."""
        if not buffers:
            return True
        if len(buffers) > 1:
            self._note(buffers)
        try:
            sent = self.wire.send(buffers)
        except WireClosed:
            return True
        if not sent:
            if self.wire.grown:
                tidy.grown(self)
            if self._host is not None:
                self._host.flush_later(self)
            elif self._parked is not None:
                # It waits for what comes alone, and is to see to this as well.
                self._parked.wake()
        return sent

    def _note(self, buffers: Sequence[Buffer]) -> None:
        """Large payloads are buffers of their own."""
        if any(len(buffer) >= tidy.LARGE for buffer in buffers):
            tidy.large(self)

    def _wake(self, stream: int) -> None:
        """Tells of a change that did not come over the wire. Under the lock."""
        self._waiting.wake(stream)
        if self._parked is not None:
            self._parked.wake()

    def tidy(self) -> bool:
        """Gives memory back that large messages have needed. True while there is more. (`tidy.Grown`)"""
        with self._lock:
            try:
                return self.error is None and self.wire.shrink()
            except IpcdError:
                return False  # the reader finds out

    # -- the end ----------------------------------------------------------------------------------

    def fail(self, error: IpcdError, goaway: int | None = None) -> None:
        """Ends the connection and every call on it. The first reason stays."""
        with self._lock:
            if self.error is not None:
                return
            if goaway is not None:
                self._push(self.core.goaway(goaway, str(error)))
            self.error = without_frames(error)
            self.retired = True
            code = self._code()
            calls = list(self._calls.values())
            self._calls.clear()
            # Calls whose beginning the peer has not seen may be tried elsewhere.
            self._seen = self.wire.sent - (self.wire.untaken() if isinstance(error, WireClosed) else 0)
            for call in calls:
                if isinstance(call, ClientCall):
                    call.refused = call.sent_at > self._seen
                    call.fail(code, str(error))
                else:
                    call.cancel(str(error))
                self._close_fds(call)
            self._waiting.wake_all()
            reading = self._reading
            # Before the lock is free: a thread that reads closes the descriptor as soon as it sees the error.
            if self._host is not None:
                self._host.closed(self)
        if reading:
            self.wire.shutdown()
        else:
            self.wire.abort()
        tidy.gone(self)
        for call in calls:
            if call.user is not None:
                call.user.progressed()
        if self.on_closed is not None:
            self.on_closed(error)

    def _break(self, error: IpcdError) -> None:
        """Ends the connection because of what receiving has raised."""
        self.fail(error, goaway=limits.goaway_code(error.violation) if isinstance(error, ProtocolError) else None)

    def _code(self) -> grpc.StatusCode:
        """What calls end with, now that the connection has."""
        return self.error.code if isinstance(self.error, ChannelClosed) else grpc.StatusCode.UNAVAILABLE

    def abandon(self) -> None:
        """For a forked child: forgets the connection, which is the parent's. Locks may be held by threads that do not
        exist here."""
        self._lock = threading.Lock()
        self._waiting = Waiters()
        self._parked = None
        self._reading = False
        self.error = WireClosed("the connection belongs to the parent process")
        self.retired = True
        for call in self._calls.values():
            if isinstance(call, ClientCall):
                call.fail(grpc.StatusCode.UNAVAILABLE, str(self.error))
            else:
                call.cancel(str(self.error))
        self._calls = {}
        self._pump_thread = None
        self.wire.abandon()

    @staticmethod
    def _close_fds(call: ClientCall | ServerCall) -> None:
        while call.fds:
            call.fds.popleft().close()


def _forget_all() -> None:
    for connection in list(_live):
        connection.abandon()


os.register_at_fork(after_in_child=_forget_all)
