"""Reads all connections of one server, and lets handlers run on the thread that read their call.

Three parts, of which at most one reads at a time:

- The *standby*, one thread of the reactor's own. It reads while the server is idle, and whenever nobody else does.
- A *leader*: a thread of the user's executor. It reads, runs fast handlers itself, and reads on: no hand-over. It is
  made when the standby reads a call of a fast handler, and steps down after `IDLE` seconds without a call.
- Workers: other threads of the executor, one for each call of a handler known to be slow.

While a leader leads, the standby looks every `WATCH` seconds whether it is still in the handler that it was in before.
Then, or when the leader is about to wait for a peer, it is deposed: the standby reads, and what was the leader is a
worker. So a blocked handler blocks nobody, handlers run on no thread but the executor's, and never more than it has.

Leadership is one field, `_leader`, changed only under `_changed`; a thread leads while that field is its own token.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from time import monotonic
from typing import Final, Protocol

from ipcd_client.rpc.call import ServerCall
from ipcd_client.rpc.deadline import Expiring
from ipcd_client.sync import spin
from ipcd_client.sync.connection import HELLO_TIMEOUT, Connection
from ipcd_client.sync.fair import Fair, in_turns, shares
from ipcd_client.sync.workers import NoThread, Workers
from ipcd_client.wire.fds import Fd

# Seconds.
WATCH: Final = 0.0025
IDLE: Final = 0.05
_WAIT_MOST: Final = 86400.0  # epoll takes no more than some weeks
_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_READY_MOST: Final = 256
_STARVED: Final = 0.01  # seconds between two tries where there is no memory
# Frames that all connections together have read in one turn: whoever comes next waits for all of these.
_TURN: Final = 16


class Job(Protocol):
    """A call that is to be run."""

    slow: bool  # known to keep its thread for longer than a hand-over costs

    @property
    def whose(self) -> object:
        """The process that it is for."""

    def run(self) -> None:
        """Runs the handler and sends its answer. Raises nothing."""

    def reject(self, why: str) -> None:
        """No thread will run it."""


class _Leader:
    __slots__ = ("ident", "jobs", "running", "turns")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.ident = 0
        # That were read and not begun. Only the leader itself adds to them; who deposes it takes them away.
        self.jobs: deque[Job] = deque(jobs)
        self.turns = 1
        # The turn whose handler is running; 0 for none. 1 is the time until it begins, as perhaps no thread is free.
        self.running = 1


class Reactor:
    """See the module. `prepare` makes the job of a call, or answers it at once and returns None."""

    def __init__(self, executor: Executor, prepare: Callable[[Connection, ServerCall], Job | None], name: str) -> None:
        self._workers = Workers(executor)
        self._prepare = prepare
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._wake = Fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._epoll.register(self._wake, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._paused: set[Connection] = set()
        self._stalled: set[Connection] = set()
        # Whose wires hold frames, those that have waited for longest first. Each once, however often it is told.
        self._again: dict[Connection, None] = {}
        self._whose: dict[Connection, object] = {}
        self._hellos: dict[Connection, float] = {}
        self._deadlines: dict[Expiring, float] = {}
        self._changed = threading.Condition()
        self._leader: _Leader | None = None
        self._stopping = False
        self._closed = False
        self._spinner = spin.Spinner(spin.budget())
        self._fair: Fair[Job] = Fair(self._submit)
        self._standby = threading.Thread(target=self._stand_by, name=f"ipcd-standby-{name}", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._standby.start()

    def stop(self) -> None:
        """Stops reading and closes what is left. Not to be called from a handler's thread while it leads."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._leader = None
            self._changed.notify_all()
        self.wake()
        if self._standby.ident is not None and self._standby is not threading.current_thread():
            self._standby.join(5)
        for connection in list(self._connections.values()):
            connection.close("the server has stopped")
        with self._changed:
            self._closed = True
            self._epoll.close()
            self._wake.close()

    # -- connections ------------------------------------------------------------------------------

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return list(self._connections.values())

    def add(self, connection: Connection, whose: object) -> None:
        """Reads the connection with this process from now on, until it ends."""
        with self._changed:
            stopping = self._stopping
            if not stopping and connection.error is None:
                fd = connection.wire.fileno()
                self._connections[fd] = connection
                self._whose[connection] = whose
                if not connection.core.ready:
                    self._hellos[connection] = monotonic() + HELLO_TIMEOUT
                self._epoll.register(fd, _READ)
        if stopping:
            connection.close("the server has stopped")
        else:
            self.wake()

    def pause(self, connection: Connection) -> None:
        """A waiting thread reads from now on. (Host)"""
        with self._changed:
            self._paused.add(connection)
            self._watch(connection)

    def resume(self, connection: Connection) -> None:
        """It has stopped. (Host)"""
        with self._changed:
            self._paused.discard(connection)
            self._watch(connection)

    def flush_later(self, connection: Connection) -> None:
        """There is a backlog, and nobody waits until it is gone. (Host)"""
        with self._changed:
            self._watch(connection)

    def read_again(self, connection: Connection) -> None:
        """Polling would not tell of the frames that the wire holds. (Host)"""
        self._again[connection] = None
        leader = self._leader
        if leader is None or leader.ident != threading.get_ident():
            self.wake()

    def _watch(self, connection: Connection) -> None:
        """Tells epoll what to look for. Under `_changed`."""
        fd = connection.wire.fileno()
        if self._connections.get(fd) is connection and not self._closed:
            stalled = connection.stalled
            (self._stalled.add if stalled else self._stalled.discard)(connection)
            wanted = 0 if stalled or connection in self._paused else _READ
            self._epoll.modify(fd, wanted | (select.EPOLLOUT if connection.wire.backlog else 0))

    def closed(self, connection: Connection) -> None:
        """The connection has ended; its descriptor is still open. Under the connection's lock, and so never the other
        way round. (Host)"""
        with self._changed:
            fd = connection.wire.fileno()
            self._hellos.pop(connection, None)
            self._paused.discard(connection)
            self._stalled.discard(connection)
            self._whose.pop(connection, None)
            self._again.pop(connection, None)
            if self._connections.get(fd) is connection:
                del self._connections[fd]
                if not self._closed:
                    self._epoll.unregister(fd)

    def adopt(self, connection: Connection, calls: list[ServerCall]) -> None:
        """Calls that a thread found which was waiting for something else. (Host)"""
        for call in calls:
            job = self._prepare(connection, call)
            if job is not None:
                self._fair.submit(job)
        self.wake()

    def submit(self, job: Job) -> None:
        """Has a thread run it, which could not be run when it came."""
        self._fair.submit(job)

    def about_to_wait(self) -> None:
        """If this thread leads, it does so no longer. (Host)"""
        leader = self._leader
        if leader is not None and leader.ident == threading.get_ident():
            self._depose(leader)

    # -- deadlines --------------------------------------------------------------------------------

    def expect(self, expiring: Expiring, deadline: float) -> None:
        """Calls its `expire` at the deadline of time.monotonic(), unless `forget` comes first."""
        self._deadlines[expiring] = deadline

    def forget(self, expiring: Expiring) -> None:
        """The deadline is of no interest any more."""
        self._deadlines.pop(expiring, None)

    def wake(self) -> None:
        """Makes whoever reads look around: deadlines, new connections, the end."""
        with self._changed:
            if not self._closed:
                os.eventfd_write(self._wake.fileno(), 1)

    # -- reading ----------------------------------------------------------------------------------

    def _stand_by(self) -> None:
        while not self._stopping:
            try:
                self._stand_by_once()
            except MemoryError:
                # There is nobody else who would read.
                time.sleep(_STARVED)

    def _stand_by_once(self) -> None:
        while not self._stopping:
            leader = self._leader
            if leader is not None:
                with self._changed:
                    if self._leader is not leader:
                        continue
                    turn = leader.running
                    self._changed.wait(WATCH)
                if turn and leader.running == turn:
                    self._depose(leader)
                continue
            self._spread(self._read(None))

    def _spread(self, jobs: Sequence[Job]) -> None:
        """Gives jobs to threads of the executor: each slow one to one of its own, the others to a leader."""
        fast = [job for job in jobs if not job.slow]
        # A leader has all that is for it before it begins: it may have stepped down again before this thread goes on,
        # and then it takes nothing.
        leader = _Leader(fast) if fast and self._leader is None and not self._stopping else None
        for job in jobs:
            if leader is None or job.slow:
                self._fair.submit(job)
            elif job is fast[0]:
                with self._changed:
                    self._leader = leader
                self._submit(functools.partial(self._lead, leader), *fast)

    def _submit(self, run: Callable[[], None], *jobs: Job) -> bool:
        """Has the executor run it, which is to run these jobs. False: it never will, and they have been told."""
        try:
            self._workers.submit(run)
        except NoThread as error:
            # Else it would be waited for that it reads.
            with self._changed:
                self._leader = None
            for job in jobs:
                job.reject(str(error))
            return False
        return True

    def _depose(self, leader: _Leader) -> None:
        with self._changed:
            if self._leader is leader:
                self._leader = None
                self._changed.notify_all()
        # What it has not begun does not wait for what it is in. Both take from the queue one by one, so each job is
        # taken once.
        while leader.jobs:
            with contextlib.suppress(IndexError):
                job = leader.jobs.popleft()
                self._fair.submit(job)

    def _lead(self, leader: _Leader) -> None:
        try:
            self._lead_on(leader)
        finally:
            # Whatever ends it: as long as there is a leader, nobody else reads.
            self._depose(leader)

    def _lead_on(self, leader: _Leader) -> None:
        leader.ident = threading.get_ident()
        jobs = leader.jobs
        quiet_since = monotonic()
        main = threading.main_thread()
        # At its end the interpreter joins the executor's threads, and so waits for the leader to step down.
        while self._leader is leader and (jobs or main.is_alive()):
            if not jobs:
                found = self._read(IDLE)
                if not found:
                    if monotonic() - quiet_since >= IDLE:
                        break
                    continue
                quiet_since = monotonic()
                jobs.extend(found)
            try:
                job = jobs.popleft()
            except IndexError:
                continue
            if job.slow:
                if not jobs:
                    # The last one may as well be run here, by what is no leader any more.
                    self._depose(leader)
                    job.run()
                    return
                self._fair.submit(job)
                continue
            leader.turns += 1
            leader.running = leader.turns
            job.run()
            leader.running = 0

    def _read(self, timeout: float | None) -> list[Job]:
        """One turn: waits at most `timeout` seconds, or until a deadline."""
        if self._hellos or self._deadlines:
            timeout = self._until_deadline(timeout)
        epoll = self._epoll
        try:
            if self._again:
                ready = epoll.poll(0, _READY_MOST)
            elif not (ready := self._spinner.spin(epoll.poll, timeout)):
                ready = epoll.poll(timeout, _READY_MOST)
        except (ValueError, OSError):
            return []  # closed by stop()
        jobs: list[Job] = []
        alone = len(ready) == 1 and not self._again and not ready[0][1] & select.EPOLLOUT
        connection = self._connections.get(ready[0][0]) if alone else None
        if connection is not None:
            # Most often.
            self._turn(connection, jobs, _TURN)
        else:
            jobs = self._read_all(ready)
        if self._hellos or self._deadlines:
            self._expire()
        return jobs

    def _read_all(self, ready: Sequence[tuple[int, int]]) -> list[Job]:
        """Of those that epoll has told of, and of those whose wires hold frames, each its share."""
        jobs: list[Job] = []
        due = dict.fromkeys(list(self._again))
        writable: list[Connection] = []
        for fd, mask in ready:
            connection = self._connections.get(fd)
            if connection is not None:
                due[connection] = None
                if mask & select.EPOLLOUT:
                    writable.append(connection)
            else:
                self._quieten(fd)
        for connection, most in shares(due, self._whose, _TURN):
            # One that holds frames after its turn, too, comes back at the end.
            self._again.pop(connection, None)
            if most:
                self._turn(connection, jobs, most)
            else:
                self._again[connection] = None
        for connection in writable:
            if not connection.wire.backlog or (connection in self._stalled and not connection.stalled):
                self.flush_later(connection)
        return in_turns(jobs) if len(due) > 1 and len(jobs) > 2 else jobs

    def _turn(self, connection: Connection, jobs: list[Job], most: int) -> None:
        for call in connection.turn(most):
            try:
                job = self._prepare(connection, call)
            except MemoryError:
                connection.refuse(call.stream, "there was no memory for it")
                continue
            if job is not None:
                jobs.append(job)

    def _quieten(self, fd: int) -> None:
        with self._changed:
            if not self._closed and fd == self._wake.fileno():
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)

    def _until_deadline(self, timeout: float | None) -> float | None:
        soonest = min([*list(self._deadlines.values()), *list(self._hellos.values())], default=None)
        if soonest is None:
            return timeout
        left = min(max(0.0, soonest - monotonic()), _WAIT_MOST)
        return left if timeout is None or left < timeout else timeout

    def _expire(self) -> None:
        now = monotonic()
        for expiring, deadline in list(self._deadlines.items()):
            if deadline <= now:
                self._deadlines.pop(expiring, None)
                expiring.expire()
        for connection, deadline in list(self._hellos.items()):
            if connection.core.ready:
                self._hellos.pop(connection, None)
            elif deadline <= now:
                connection.say_no_hello(HELLO_TIMEOUT)
