"""What holds a lock, for threads: a call that lasts as long, and a thread that hears of its end."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc

from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives import lock_terms as terms
from ipcd_client.primitives.errors import Lost
from ipcd_client.primitives.lock_ledger import Ledger
from ipcd_client.primitives.lock_names import Name
from ipcd_client.primitives.lock_terms import Holding, OnLost, Wanted
from ipcd_client.primitives.waiting import deadline_of, unanswered

log = logging.getLogger("ipcd_client")


class Flag(threading.Event):
    """An event that is true once it is set."""

    def __bool__(self) -> bool:
        return self.is_set()


class Stream:
    """The call. `name` is for errors; `on_end`: it is over."""

    def __init__(self, stub: Any, first: lock_pb2.LockHoldRequest, name: str, on_end: Callable[[], None]) -> None:
        self.lost = Flag()
        self.error: Lost | None = None
        self._name = name
        self._pid = os.getpid()
        self._ids = itertools.count(first.id + 1)
        self._first = first
        self._news = threading.Condition()
        # By the id of the request; None: not yet. Others nobody waits for any more.
        self._answers: dict[int, lock_pb2.LockHoldReply | None] = {}
        self._ledger = Ledger()
        self._called = Name(first.party)
        self._failure: Any = None
        self._over = self._ending = False
        self._on_lost: list[OnLost] = []
        self._requests: queue.SimpleQueue[lock_pb2.LockHoldRequest | None] = queue.SimpleQueue()
        self._on_end = on_end
        self._call = stub.Hold(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name="ipcd-lock", daemon=True)
        self._reader.start()

    def first(self, wait: float | None) -> int:
        """The token of the first request.

        Raises:
            grpc.RpcError, Lost: the call has ended instead.
            TimedOut, Deadlock, CallFailed: it was not granted.
        """
        reply = self._asked(self._first, deadline_of(wait))
        if reply is None:
            raise self._failure or self.error or Lost(f"the session with the lock {self._name!r} has ended")
        return terms.token_of(reply)

    def ask(self, make: Callable[[int], lock_pb2.LockHoldRequest], wait: float | None = 0.0) -> int:
        """The token that was granted to a later request.

        Raises:
            Lost: the session has ended.
            TimedOut, Deadlock, CallFailed: it was not granted.
        """
        self.check()
        reply = self._asked(make(next(self._ids)), deadline_of(wait))
        if reply is None:
            self.check()
            raise Lost(f"the lock {self._name!r} has been released meanwhile")
        return terms.token_of(reply)

    def check(self) -> None:
        """Raises `Lost` where it is."""
        if self._pid != os.getpid():
            raise terms.in_parent(self._name)
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self._ending:
            raise Lost(f"the lock {self._name!r} has been released")

    def on_lost(self, callback: OnLost) -> None:
        """Calls it when that happens, on a thread of its own; at once if it has."""
        with self._news:
            if self.error is None:
                self._on_lost.append(callback)
                return
        callback(self.error)

    def end(self) -> None:
        """Gives back all, and waits until the other end says that it has."""
        with self._news:
            self._ending = True
            self._requests.put(None)
            if not self._news.wait_for(lambda: self._over, terms.ANSWER):
                self._call.cancel()
        self._reader.join(terms.ANSWER)

    def abandon(self) -> None:
        """The same without waiting."""
        # A fork leaves the call with its parent.
        if self._pid == os.getpid():
            self._ending = True
            self._call.cancel()

    def _asked(self, request: lock_pb2.LockHoldRequest, timeout: float | None) -> lock_pb2.LockHoldReply | None:
        end = None if timeout is None else monotonic() + timeout
        with self._news:
            self._answers[request.id] = None
            self._called.asked(request)
            self._ledger.asked(request)
            try:
                self._requests.put(request)
                while (reply := self._answers[request.id]) is None and not self._over:
                    left = None if end is None else end - monotonic()
                    if left is not None and left <= 0:
                        raise unanswered(timeout)
                    self._news.wait(left)
            except BaseException:
                for more in self._ledger.given_up(request.id, self._ids):
                    self._requests.put(more)
                raise
            finally:
                del self._answers[request.id]
            self._ledger.done(request.id)
            return reply

    def _read(self) -> None:
        code, details = grpc.StatusCode.OK, "the session was ended by the node"
        try:
            for reply in self._call:
                with self._news:
                    self._called.answered(reply)
                    self._ledger.answered(reply)
                    if reply.id in self._answers:
                        self._answers[reply.id] = reply
                        self._news.notify_all()
        except grpc.RpcError as error:
            self._failure = call = error
            code, details = call.code(), call.details() or ""
        # Ends the thread that sends.
        self._requests.put(None)
        self._called.over()
        with self._news:
            self._over = True
            callbacks: list[OnLost] = []
            lost = terms.lost_by(self._name, code, details)
            if not self._ending:
                self.error = lost
                callbacks, self._on_lost = self._on_lost, []
                self.lost.set()
            self._news.notify_all()
        self._on_end()
        for callback in callbacks:
            try:
                callback(lost)
            except Exception:
                log.exception("a callback for the loss of the lock %s failed", self._name)


class Held(Holding[Stream]):
    """A session with a lock, for several threads."""

    @property
    def lost(self) -> Flag:
        """Set when it is."""
        return self._stream.lost

    def acquire(self, start: int = 0, length: int = 0, *, shared: bool = False, wait: float | None = None) -> int:
        """Holds these bytes too, or in another way; `length` 0: all from `start` on. The token.

        Raises:
            TimedOut: not within `wait` seconds.
            Deadlock: to wait would be to wait for oneself.
            Lost: nothing is held any more.
            PrimitiveError, CallFailed: it cannot be had.
        """
        token = self._stream.ask(Wanted(shared, start, length, wait).request, wait)
        return self._granted(token)

    def unlock(self, start: int = 0, length: int = 0) -> None:
        """Gives these bytes back, of what it holds.

        Raises:
            Lost: nothing is held any more.
            CallFailed: it would hold too many ranges.
        """
        self._stream.ask(lambda id_: terms.releasing(id_, start, length))

    def upgrade(self, wait: float | None = None) -> int:
        """Holds exclusively what its handle says: a new token. Meanwhile it goes on sharing what it shares.

        Raises:
            As `acquire`. Of two that share and both want to upgrade, one gets Deadlock.
        """
        return self.acquire(self._wanted.start, self._wanted.length, wait=wait)

    def downgrade(self) -> None:
        """Shares what its handle says from now on.

        Raises:
            Lost: nothing is held any more.
        """
        self.acquire(self._wanted.start, self._wanted.length, shared=True, wait=0)

    def release(self) -> None:
        """Gives back all, and ends the session. Does nothing the second time.

        Raises:
            Lost: it was lost before.
        """
        if not self._released():
            self._stream.check()
            self._stream.end()
            # It may have been lost just before.
            if self._stream.error is not None:
                raise self._stream.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except Lost:
            # What went wrong within is what matters.
            if error is None:
                raise
