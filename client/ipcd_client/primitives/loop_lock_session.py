"""What holds a lock, for an event loop: a call that lasts as long, and a task that hears of its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable
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


class Flag(asyncio.Event):
    """An event that is true once it is set."""

    def __bool__(self) -> bool:
        return self.is_set()


class Stream:
    """The call. `name` is for errors. `on_end`: it is over. (lock_session.Stream)"""

    def __init__(
        self, stub: Any, first: lock_pb2.LockHoldRequest, name: str, on_end: Callable[[], Awaitable[None]]
    ) -> None:
        self.lost = Flag()
        self.error: Lost | None = None
        self._name = name
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(first.id + 1)
        self._first = first
        self._answers: dict[int, asyncio.Future[lock_pb2.LockHoldReply | None]] = {}
        self._ledger = Ledger()
        self._called = Name(first.party)
        self._failure: Any = None
        self._over = self._ending = False
        self._on_lost: list[OnLost] = []
        # Requests of several tasks must not meet.
        self._sending = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._on_end = on_end
        self._call = stub.Hold()
        self._reader = self._loop.create_task(self._read())

    async def first(self, wait: float | None) -> int:
        """The token of the first request.

        Raises:
            grpc.RpcError, Lost: the call has ended instead.
            TimedOut, Deadlock, CallFailed: it was not granted.
        """
        reply = await self._asked(self._first, deadline_of(wait))
        if reply is None:
            raise self._failure or self.error or Lost(f"the session with the lock {self._name!r} has ended")
        return terms.token_of(reply)

    async def ask(self, make: Callable[[int], lock_pb2.LockHoldRequest], wait: float | None = 0.0) -> int:
        """The token that was granted to a later request.

        Raises:
            Lost: the session has ended.
            TimedOut, Deadlock, CallFailed: it was not granted.
        """
        self.check()
        reply = await self._asked(make(next(self._ids)), deadline_of(wait))
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
        """Calls it when that happens, on the loop; at once if it has."""
        if self.error is None:
            self._on_lost.append(callback)
        else:
            callback(self.error)

    async def end(self) -> None:
        """Gives back all, and waits until the other end says that it has."""
        self._ending = True
        try:
            async with asyncio.timeout(terms.ANSWER):
                await self._call.done_writing()
                await asyncio.wait({self._reader})
        except (TimeoutError, grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass
        finally:
            await self.abandoned()

    def abandon(self) -> None:
        """The same without waiting; also where the loop does not run any more."""
        if self._pid == os.getpid() and not self._over:
            self._ending = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def abandoned(self) -> None:
        """The same, and its task has ended."""
        self._ending = True
        if not self._over:
            self._call.cancel()
        await asyncio.wait({self._reader})

    async def _asked(self, request: lock_pb2.LockHoldRequest, timeout: float | None) -> Any:
        answer = self._answers[request.id] = self._loop.create_future()
        if self._over:
            answer.set_result(None)
        self._called.asked(request)
        self._ledger.asked(request)
        self._send_soon(request)
        try:
            async with asyncio.timeout(timeout):
                reply = await answer
        except BaseException as error:
            self._send_soon(*self._ledger.given_up(request.id, self._ids))
            if isinstance(error, TimeoutError):
                raise unanswered(timeout) from None
            raise
        finally:
            del self._answers[request.id]
        self._ledger.done(request.id)
        return reply

    def _send_soon(self, *requests: lock_pb2.LockHoldRequest) -> None:
        """Sends them after those before, whatever becomes of who asks: what takes a request back has to follow it, and
        a call whose `write` is cancelled is over."""
        if requests and not self._over:
            task = self._loop.create_task(self._send(*requests))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, *requests: lock_pb2.LockHoldRequest) -> None:
        async with self._sending:
            try:
                for request in requests:
                    await self._call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                pass  # the call is over, as the reader says

    async def _read(self) -> None:
        code, details = grpc.StatusCode.OK, "the session was ended by the node"
        try:
            async for reply in self._call:
                self._called.answered(reply)
                self._ledger.answered(reply)
                answer = self._answers.get(reply.id)
                if answer is not None and not answer.done():
                    answer.set_result(reply)
        except grpc.RpcError as error:
            self._failure = call = error
            code, details = call.code(), call.details() or ""
        except asyncio.CancelledError:
            # The call's own, not this task's.
            code, details = grpc.StatusCode.CANCELLED, "the call was cancelled"
        finally:
            # Also where this goes with its loop, that was closed before the call's end.
            self._called.over()
        self._over = True
        callbacks: list[OnLost] = []
        lost = terms.lost_by(self._name, code, details)
        if not self._ending:
            self.error = lost
            callbacks, self._on_lost = self._on_lost, []
            self.lost.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        for callback in callbacks:
            try:
                callback(lost)
            except Exception:
                log.exception("a callback for the loss of the lock %s failed", self._name)
        await self._on_end()


class Held(Holding[Stream]):
    """A session with a lock, for several tasks of a loop."""

    @property
    def lost(self) -> Flag:
        """Set when it is."""
        return self._stream.lost

    async def acquire(self, start: int = 0, length: int = 0, *, shared: bool = False, wait: float | None = None) -> int:
        """Holds these bytes too, or in another way; `length` 0: all from `start` on. The token.

        Raises:
            TimedOut: not within `wait` seconds.
            Deadlock: to wait would be to wait for oneself.
            Lost: nothing is held any more.
            PrimitiveError, CallFailed: it cannot be had.
        """
        token = await self._stream.ask(Wanted(shared, start, length, wait).request, wait)
        return self._granted(token)

    async def unlock(self, start: int = 0, length: int = 0) -> None:
        """Gives these bytes back, of what it holds.

        Raises:
            Lost: nothing is held any more.
            CallFailed: it would hold too many ranges.
        """
        await self._stream.ask(lambda id_: terms.releasing(id_, start, length))

    async def upgrade(self, wait: float | None = None) -> int:
        """Holds exclusively what its handle says: a new token. Meanwhile it goes on sharing what it shares.

        Raises:
            As `acquire`. Of two that share and both want to upgrade, one gets Deadlock.
        """
        return await self.acquire(self._wanted.start, self._wanted.length, wait=wait)

    async def downgrade(self) -> None:
        """Shares what its handle says from now on.

        Raises:
            Lost: nothing is held any more.
        """
        await self.acquire(self._wanted.start, self._wanted.length, shared=True, wait=0)

    async def release(self) -> None:
        """Gives back all, and ends the session. Does nothing the second time.

        Raises:
            Lost: it was lost before.
        """
        if not self._released():
            self._stream.check()
            await self._stream.end()
            # It may have been lost just before.
            if self._stream.error is not None:
                raise self._stream.error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except Lost:
            # What went wrong within is what matters.
            if error is None:
                raise
