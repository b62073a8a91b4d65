"""One call on its way: looking for a server, running, refused and tried elsewhere, ended.

It is what the object in the program's hands (`call.Call`) shares with the threads that work for the call, so that they
do not keep that object: a call that the program drops ends.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final

import grpc

from ipcd_client.facade.callbacks import Callback, Callbacks
from ipcd_client.facade.feeder import Feeder
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE
from ipcd_client.rpc import deadline as deadlines
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.retry import Restarts
from ipcd_client.sync.connection import Connection

# A call that no handler has seen is tried so often at most.
ATTEMPTS: Final = 3

Ready = Callable[[ClientCall], bool]


class Failed(Exception):
    """The call has failed before it was sent: code and details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(slots=True)
class Plan:
    """What it takes to start a call, once and again.

    `connect` takes the deadline, and gives a connection or raises Failed. `data` is the one request, None where
    `feeder` has a stream of them. `seeking`: the channel's calls that have no connection yet, so that it can end them.
    `check_open` raises ValueError once it is closed.
    """

    state: Callable[[], ClientCall]
    connect: Callable[[float | None], Connection]
    metadata: tuple[tuple[str, str | bytes], ...]
    data: bytes | None
    feeder: Feeder | None
    callbacks: Callbacks
    seeking: set[Exchange]
    check_open: Callable[[], None]
    restarts: Restarts = field(default_factory=partial(Restarts, ATTEMPTS))

    def start(self, connection: Connection, state: ClientCall, timeout: float | None) -> None:
        """Opens the call there."""
        metadata = self.restarts.metadata(self.metadata)
        connection.start(state, timeout=timeout, metadata=metadata, message=self.data, end=self.data is not None)

    def next_start(self, state: ClientCall) -> float | None:
        """Seconds until the call, which has ended in `state`, is started again; None if it is not."""
        replayable = self.feeder is None or self.feeder.kept.replayable
        return self.restarts.after(state, random.random(), replayable=replayable)


class Exchange:
    """One call, from any thread. `deadline` is one of time.monotonic().

    `link` is where the call is: its connection, and its state there; without a connection while there is none yet.
    The two change together, when a server was found and when the call is tried elsewhere. `streams`: the responses are
    a stream, of which the program has to take all before the call is over for it, as it is with grpcio.
    """

    cancelled = False

    def __init__(
        self,
        state: ClientCall,
        connection: Connection | None = None,
        deadline: float | None = None,
        *,
        streams: bool = False,
        plan: Plan | None = None,
    ) -> None:
        self.link: tuple[Connection | None, ClientCall] = (connection, state)
        self.deadline = deadline
        self._streams = streams
        self._plan = plan
        self._runner = plan.callbacks if plan is not None else None
        self._callbacks: list[Callback] = []
        self._ending = False  # from this side: no further attempt
        # Guards the link and the callbacks. Told of what no connection tells: another link, the last response taken.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    # -- the beginning ----------------------------------------------------------------------------

    def begin(self, timeout: float | None) -> None:
        """Starts the call on its connection, or looks for one without keeping the caller waiting."""
        plan = self._plan
        connection, state = self.link
        if connection is None:
            self._look_for_server()
            return
        assert plan is not None
        plan.start(connection, state, timeout)
        if plan.feeder is not None:
            plan.feeder.go(self, lambda: True)
        elif state.refused:
            self._again(state)
        if plan.restarts.retries is not None:
            self._follow(connection, state)

    def resume(self, pause: float) -> None:
        """Starts the call, of which there was an attempt, in so many seconds."""
        self._look_for_server(pause)

    def _look_for_server(self, pause: float = 0.0) -> None:
        threading.Thread(target=self._seek, args=(pause,), name="ipcd-connect", daemon=True).start()

    def _seek(self, pause: float) -> None:
        plan, waiting = self._plan, self.link[1]
        if plan is None:
            return
        plan.seeking.add(self)
        try:
            if pause and not self._paused(plan, waiting, pause):
                return
            connection = plan.connect(self.deadline)
        except Failed as error:
            self._fail(waiting, error.code, error.details)
            return
        finally:
            plan.seeking.discard(self)
        if waiting.code is not None:
            return
        state = plan.state()
        plan.start(connection, state, deadlines.left(self.deadline, monotonic()))
        begun = partial(self._begun, waiting, connection, state)
        if plan.feeder is not None:
            plan.feeder.go(self, begun)
        else:
            begun()

    def _paused(self, plan: Plan, waiting: ClientCall, pause: float) -> bool:
        """Waits so many seconds. False: the call has ended meanwhile."""
        try:
            plan.check_open()
        except ValueError as error:
            raise Failed(grpc.StatusCode.CANCELLED, status.CHANNEL_CLOSED) from error
        until = monotonic() + pause
        with self._changed:
            while waiting.code is None and (left := _left(deadlines.sooner(until, self.deadline))):
                self._changed.wait(left)
        return not self.expire()

    def _begun(self, waiting: ClientCall, connection: Connection, state: ClientCall) -> bool:
        """The call was started there. False if it has ended meanwhile."""
        with self._changed:
            going = waiting.code is None
            if going:
                self.link = (connection, state)
            self._changed.notify_all()
        if not going:
            connection.end(state, grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED)
            return False
        self._follow(connection, state)
        return True

    def _follow(self, connection: Connection, state: ClientCall) -> None:
        """Has news of the call told to this side, where somebody wants them other than who waits for it."""
        tries_again = self._plan is not None and self._plan.restarts.retries is not None
        if not self._callbacks and not tries_again:
            return
        state.user = self
        # A stream is read by whoever takes its responses; nobody may be waiting for a single one.
        if self._callbacks or not self._streams:
            connection.watch(state, self.deadline)
        self.progressed()

    def _again(self, state: ClientCall) -> bool:
        """Whether the call, which has ended in `state`, goes on: because a server has refused it, or a policy allows
        another attempt."""
        plan = self._plan
        if plan is None:
            return self.link[1] is not state
        with self._changed:
            connection, current = self.link
            if current is not state:
                return True
            if self._ending or (self.deadline is not None and monotonic() >= self.deadline):
                plan.restarts.retries = None
            pause = plan.next_start(state)
            if pause is None:
                return False
            self.link = (None, plan.state())
            self._changed.notify_all()
        if connection is not None and state.refused:
            connection.retired = True
        self._look_for_server(pause)
        return True

    def _tried_again(self, state: ClientCall) -> bool:
        """The same, asked of every end of a call."""
        plan = self._plan
        return (state.refused or (plan is not None and plan.restarts.retries is not None)) and self._again(state)

    # -- waiting ----------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """The call has ended, and the program has taken all that there is to take."""
        state = self.link[1]
        if state.code is None or self._tried_again(state):
            return False
        if not self._finished(state):
            return False
        self._plan = None
        return True

    def _finished(self, state: ClientCall) -> bool:
        return state.code is not None and (state.cut or not (self._streams and state.messages))

    def wait(self, ready: Ready | None = None, timeout: float | None = None) -> bool:
        """Waits until `ready`, of the state, or the end of the call. False if `timeout` seconds passed first."""
        until = deadlines.sooner(self.deadline, None if timeout is None else monotonic() + timeout)
        while not self.over:
            connection, state = self.link
            if ready is not None and ready(state):
                return True
            if connection is None or state.code is not None:
                with self._changed:
                    if self.link[1] is state and not self._finished(state):
                        self._changed.wait(_left(until))
            else:
                connection.wait(state.stream, partial(_stirred, state, ready), until)
            if until is not None and monotonic() >= until:
                return (ready is not None and ready(self.link[1])) or self.expire()
        return True

    def await_start(self, state: ClientCall) -> bool:
        """Waits until the call runs elsewhere than in `state`, which has ended. False if it does not."""
        while not self.over:
            with self._changed:
                connection, current = self.link
                if connection is not None:
                    return current is not state
                self._changed.wait(_left(self.deadline))
            self.expire()
        return False

    def look(self) -> bool:
        """Takes in what has come. True if the call is over."""
        connection, state = self.link
        if state.code is None and connection is not None:
            connection.look()
        return self.expire()

    # -- the end ----------------------------------------------------------------------------------

    def expire(self) -> bool:
        """Ends the call if its deadline has passed. True if it is over."""
        if self.deadline is not None and monotonic() >= self.deadline and not self.over:
            self.end(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)
        return self.over

    def end(self, code: grpc.StatusCode, details: str, reset: int = RESET_CANCEL) -> bool:
        """Ends the call from this side. False if it was over."""
        self._ending = True
        while not self.over:
            connection, state = self.link
            if connection is None:
                if self._fail(state, code, details):
                    return True
            elif connection.end(state, code, details, reset) or self._discard(state, code, details):
                with self._changed:
                    self._changed.notify_all()
                self.progressed()
                return True
        return False

    def _fail(self, waiting: ClientCall, code: grpc.StatusCode, details: str) -> bool:
        """Ends the call, if it is still where it was in `waiting`, without a connection."""
        with self._changed:
            ended = self.link[1] is waiting and waiting.fail(code, details)
            self._changed.notify_all()
        if ended:
            self.progressed()
        return ended

    def _discard(self, state: ClientCall, code: grpc.StatusCode, details: str) -> bool:
        """Ends the call in another way than the server has, of which the program has not taken all yet."""
        with self._changed:
            if self.link[1] is not state or state.code is None or self._finished(state):
                return False
            state.spoil(code, details)
        return True

    def cancel(self) -> bool:
        """See grpc.Future.cancel."""
        if self.look():
            return False
        # Before it ends: who sees the end must see why.
        before, self.cancelled = self.cancelled, True
        if self.end(grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED):
            return True
        self.cancelled = before
        return False

    def dropped(self) -> None:
        """The program has no reference any more. For a destructor: it may run anywhere, also where this thread holds a
        lock of the call's."""
        self._ending = True
        connection, state = self.link
        if state.code is not None:
            return
        if self._lock.locked() or (connection is not None and connection.locked):
            threading.Thread(target=self._drop, name="ipcd-drop", daemon=True).start()
        else:
            self._drop()

    def _drop(self) -> None:
        self.end(grpc.StatusCode.CANCELLED, status.DROPPED)

    def drained(self) -> None:
        """The program has taken the last response of a stream that the server has ended."""
        with self._changed:
            self._changed.notify_all()
        self.progressed()

    # -- callbacks --------------------------------------------------------------------------------

    def add(self, callback: Callback) -> bool:
        """Has `callback` run at the end. False if that was before."""
        if self.over:
            return False
        with self._changed:
            self._callbacks.append(callback)
            connection, state = self.link
            state.user = self
        if connection is not None:
            connection.watch(state, self.deadline)
        # It may have ended before the callback was in the list.
        self.progressed()
        return True

    def progressed(self) -> None:
        """An event of the call was taken in. (User)"""
        if not self.over or not self._callbacks:
            return
        with self._changed:
            callbacks, self._callbacks = self._callbacks, []
        if self._runner is not None:
            self._runner.run(callbacks)


def _left(deadline: float | None) -> float | None:
    """Seconds, no more than Python's locks take."""
    return None if deadline is None else min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)


def _stirred(state: ClientCall, ready: Ready | None) -> bool:
    return state.code is not None or (ready is not None and ready(state))
