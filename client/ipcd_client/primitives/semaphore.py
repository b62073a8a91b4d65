"""`ipcd_client.semaphore`: counting semaphores, for threads.

>>> with ipcd_client.semaphore("licences", 3) as licences:
...     with licences.hold() as hold:
...         use(hold.token)
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

import grpc

from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.pb.ipcd.v1 import semaphore_pb2_grpc
from ipcd_client.primitives import semaphore_terms as terms
from ipcd_client.primitives.errors import BadRequest, Empty, Lost
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.waiting import deadline_of, first, until_end

# Seconds for calls that do not wait.
_SOON: Final = 0.0


class _Feed:
    """The requests of a call, as they come."""

    def __init__(self, first: pb.SemaphoreRequest) -> None:
        self._requests: SimpleQueue[pb.SemaphoreRequest | None] = SimpleQueue()
        self._requests.put(first)

    def __iter__(self) -> Iterator[pb.SemaphoreRequest]:
        return self

    def __next__(self) -> pb.SemaphoreRequest:
        request = self._requests.get()
        if request is None:
            self._requests.put(None)
            raise StopIteration
        return request

    def add(self, request: pb.SemaphoreRequest) -> None:
        """One more."""
        self._requests.put(request)

    def end(self) -> None:
        """There are no more."""
        self._requests.put(None)


class Hold:
    """What was taken, until `release`, the end of a `with`, or that of this process. `token` is greater than that of
    every hold before it on the semaphore's node: whatever is protected can refuse those who come with a smaller one
    than it has seen."""

    def __init__(self, place: Place, call: Any, feed: _Feed, token: int) -> None:
        self.token = token
        self.pid = os.getpid()
        self._place = place  # keeps the channel
        self._call = call
        self._feed = feed
        self._over = False
        self._lock = threading.Lock()
        # Where this is dropped without a release, the thread that sends the requests has to end.
        weakref.finalize(self, feed.end).atexit = False

    @property
    def lost(self) -> bool:
        """It is not held any more, and was not released: its node has ended or cannot be reached, or the semaphore has
        been removed."""
        return not self._over and (os.getpid() != self.pid or not self._call.is_active())

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Calls it, in a thread of the library's, when that happens; at once if it has."""

        def ended() -> None:
            if not self._over:
                callback()

        if not self._call.add_callback(ended):
            ended()

    def give_back(self, n: int = 1, name: str = "") -> None:
        """Puts `n` back, and goes on to hold the others. `name`: of which semaphore, where there are several.

        Raises:
            Lost: nothing is held any more.
            BadRequest: it does not hold so many; then it holds nothing any more.
        """
        (back,) = terms.puts(n)
        back.name = name
        with self._lock:
            self._check()
            self._feed.add(pb.SemaphoreRequest(operations=[back]))
            try:
                first(self._call, 0)
            except grpc.RpcError as failed:
                error: Any = failed
                self._over = True
                self._feed.end()
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise BadRequest(error.details()) from error
                raise terms.lost(error) from error

    def release(self) -> None:
        """Puts back what was taken. Once it is released nothing happens.

        Raises:
            Lost: it was not held any more.
        """
        with self._lock:
            if self._over:
                return
            self._check()
            self._over = True
            self._feed.end()
            try:
                until_end(self._call)
            except grpc.RpcError as error:
                raise terms.lost(error) from error

    def _check(self) -> None:
        if os.getpid() != self.pid:
            raise terms.forked(self.pid)
        if self._over:
            raise Lost("it was released")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.release()
            return
        # What the block has failed with says more.
        with contextlib.suppress(Lost):
            self.release()


class Semaphore(terms.Named):
    """One semaphore; what `semaphore` returns."""

    def __init__(
        self, name: str, value: int | None, *, undo: bool, node: str | None, channel: grpc.Channel | None
    ) -> None:
        self._place = Place(terms.KIND, name, node, channel)
        super().__init__(name, value, given=channel is not None)
        self.undo = undo
        self._held: list[tuple[Hold, int]] = []  # by acquire, and how many are left of each
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    # -- one semaphore ----------------------------------------------------------------------------

    def acquire(self, n: int = 1, wait: float | None = None) -> int:
        """Takes `n`, once there are so many and all who came before have had theirs; its token (`Hold`).

        What was taken is put back by `release`. It is also put back when this process ends, however it does, or the
        handle is closed; with `undo=False` it is not.

        Args:
            n: how many; all of them or none are taken.
            wait: seconds to wait for them; None for ever, 0 not at all.

        Raises:
            TimedOut: they were not there in time.
            Empty: they are not there, and `wait` is 0.
            NoSuchName: there is no such semaphore and no `value` to make one with, or it was removed meanwhile.
            NameTaken: it was made with another value.
            NotAllowed, CallFailed: the call failed.
        """
        if not self.undo:
            return self._operate(terms.takes(n), wait).token
        hold = self.hold(n, wait)
        with self._mine():
            self._held.append((hold, n))
        return hold.token

    def try_acquire(self, n: int = 1) -> int | None:
        """Takes `n` if they are there: its token, else None."""
        try:
            return self.acquire(n, wait=0)
        except Empty:
            return None

    def release(self, n: int = 1) -> None:
        """Puts back `n` of what `acquire` has taken, by whichever thread, the last first. With `undo=False`: puts `n`
        in, whoever took them.

        Raises:
            BadRequest: this handle has not taken so many.
            Lost: what it had taken was not held any more.
            Full: the semaphore would have more than it can.
        """
        if not self.undo:
            self._operate(terms.puts(n), _SOON)
            return
        terms.puts(n)
        with self._mine():
            taken = terms.last(self._held, n, self.text)
        for hold, count, whole in taken:
            if whole:
                hold.release()
            else:
                hold.give_back(count)

    def hold(self, n: int = 1, wait: float | None = None) -> Hold:
        """Takes `n` as `acquire` does, with `undo` always, for a `with`."""
        return self._hold(terms.takes(n), wait)

    def get_value(self) -> int:
        """How many there are now."""
        return self._operate([], _SOON).values[0]

    def make(self) -> None:
        """Sees to it that it is there: made now, if there is none.

        Raises:
            NoSuchName: there is none and no `value`.
            NameTaken: it was made with another value.
        """
        self._operate([], _SOON)

    def remove(self) -> None:
        """There is no such semaphore any more: those who wait for it get `NoSuchName`, those who hold some `Lost`.

        Raises:
            NoSuchName: there was none.
        """
        request = pb.SemaphoreRemoveRequest(name=self.text)
        self._place.run(semaphore_pb2_grpc.SemaphoreStub, lambda stub: stub.Remove(request, timeout=deadline_of(0)))

    # -- several ----------------------------------------------------------------------------------

    def operate(self, operations: terms.Operations, wait: float | None = None) -> int:
        """One operation on several semaphores of this one's node, all at once or not at all; its token. What it did
        stays when this process ends. Raises what `acquire` raises.

        Args:
            operations: semaphores or names of semaphores, each with how many are taken (below 0) or put in (above), or
                with 0: waits until there are none. They are tried in their order, as semop(2) does it.
            wait: as of `acquire`.
        """
        return self._operate(terms.several(operations), wait).token

    def hold_all(self, operations: terms.Operations, wait: float | None = None) -> Hold:
        """The same, undone at the end of the hold."""
        return self._hold(terms.several(operations), wait)

    # -- inside -----------------------------------------------------------------------------------

    def _operate(self, operations: list[pb.SemaphoreOperation], wait: float | None) -> pb.SemaphoreReply:
        request = self.request(operations, wait, str(threading.get_native_id()))

        def act(stub: Any) -> pb.SemaphoreReply:
            reply: pb.SemaphoreReply = stub.Operate(request, timeout=deadline_of(wait))
            return reply

        return self._place.run(semaphore_pb2_grpc.SemaphoreStub, act)

    def _hold(self, operations: list[pb.SemaphoreOperation], wait: float | None) -> Hold:
        request = self.request(operations, wait, str(threading.get_native_id()))

        def act(stub: Any) -> Hold:
            feed = _Feed(request)
            call = stub.Hold(feed)
            try:
                reply = first(call, wait)
            except BaseException:
                feed.end()
                raise
            return Hold(self._place, call, feed, reply.token)

        hold = self._place.run(semaphore_pb2_grpc.SemaphoreStub, act)
        with self._mine():
            self._holds.add(hold)
        return hold

    def _mine(self) -> threading.Lock:
        """Guards what this process holds; after a fork it holds nothing."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._held = []
            self._holds = weakref.WeakSet()
        return self._lock

    def close(self) -> None:
        """Releases all that was taken with it. It can be used again."""
        with self._mine():
            holds = list(self._holds)  # first: the list below may have the only references
            self._held.clear()
        for hold in holds:
            with contextlib.suppress(Lost):
                hold.release()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def semaphore(
    name: str,
    value: int | None = None,
    *,
    undo: bool = True,
    node: str | None = None,
    channel: grpc.Channel | None = None,
) -> Semaphore:
    """A counting semaphore that a node keeps. Nothing is asked of the node yet.

    Args:
        name: NAME, or NAME@NODE for that node's.
        value: with how many it is made, where there is none; None: there has to be one. One that is there has to have
            been made with the same.
        undo: what `acquire` has taken is put back when this process ends, or closes the handle. False: only `release`
            puts anything in, and anybody may, as with POSIX's semaphores.
        node: path of the daemon's socket. Default: that of `ipcd_client.channel`.
        channel: a grpc channel to any node's gateway instead.

    Raises:
        BadRequest: it is no name, or no value.
    """
    return Semaphore(name, value, undo=undo, node=node, channel=channel)
