"""`ipcd_client.aio.semaphore`: counting semaphores, for an event loop.

>>> async with ipcd_client.aio.semaphore("licences", 3) as licences:
...     async with await licences.hold() as hold:
...         await use(hold.token)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.pb.ipcd.v1 import semaphore_pb2_grpc
from ipcd_client.primitives import semaphore_terms as terms
from ipcd_client.primitives.errors import BadRequest, Empty, Lost
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.waiting import deadline_of, loop_first, loop_until_end


class LoopHold:
    """What was taken, until `release` or the end of an `async with`. (semaphore.Hold)"""

    def __init__(self, call: Any, token: int) -> None:
        self.token = token
        self.pid = os.getpid()
        self._call = call
        self._over = False
        self._lock = asyncio.Lock()
        # grpc.aio's own calls go on when nobody has them any more.
        self._end = weakref.finalize(self, _cancel, asyncio.get_running_loop(), call)
        self._end.atexit = False

    @property
    def lost(self) -> bool:
        """It is not held any more, and was not released."""
        return not self._over and (os.getpid() != self.pid or self._call.done())

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Calls it, on the loop, when that happens; at once if it has."""

        def ended(_: Any) -> None:
            if not self._over:
                callback()

        self._call.add_done_callback(ended)

    async def give_back(self, n: int = 1, name: str = "") -> None:
        """Puts `n` back, and goes on to hold the others. (semaphore.Hold.give_back)"""
        (back,) = terms.puts(n)
        back.name = name
        async with self._lock:
            self._check()
            try:
                await loop_first(self._call, 0, pb.SemaphoreRequest(operations=[back]))
            except grpc.RpcError as failed:
                error: Any = failed
                self._over = True
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise BadRequest(error.details()) from error
                raise terms.lost(error) from error

    async def release(self) -> None:
        """Puts back what was taken. Once it is released nothing happens.

        Raises:
            Lost: it was not held any more.
        """
        async with self._lock:
            if self._over:
                return
            self._check()
            self._over = True
            try:
                await loop_until_end(self._call)
            except grpc.RpcError as error:
                raise terms.lost(error) from error
            finally:
                # Also where this is cancelled: then it is not known to be given back, but it will be.
                self._end.detach()
                self._call.cancel()

    def _check(self) -> None:
        if os.getpid() != self.pid:
            raise terms.forked(self.pid)
        if self._over:
            raise Lost("it was released")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.release()
            return
        # What the block has failed with says more.
        with contextlib.suppress(Lost):
            await self.release()


class LoopSemaphore(terms.Named):
    """One semaphore; what `ipcd_client.aio.semaphore` returns. Belongs to the loop that first uses it."""

    def __init__(
        self, name: str, value: int | None, *, undo: bool, node: str | None, channel: grpc.aio.Channel | None
    ) -> None:
        self._place = LoopPlace(terms.KIND, name, node, channel)
        super().__init__(name, value, given=channel is not None)
        self.undo = undo
        self._held: list[tuple[LoopHold, int]] = []  # by acquire, and how many are left of each
        self._holds: weakref.WeakSet[LoopHold] = weakref.WeakSet()

    # -- one semaphore ----------------------------------------------------------------------------

    async def acquire(self, n: int = 1, wait: float | None = None) -> int:
        """Takes `n`; its token. (semaphore.Semaphore.acquire)"""
        if not self.undo:
            return (await self._operate(terms.takes(n), wait)).token
        hold = await self.hold(n, wait)
        self._held.append((hold, n))
        return hold.token

    async def try_acquire(self, n: int = 1) -> int | None:
        """Takes `n` if they are there: its token, else None."""
        try:
            return await self.acquire(n, wait=0)
        except Empty:
            return None

    async def release(self, n: int = 1) -> None:
        """Puts back `n` of what `acquire` has taken; with `undo=False`, puts `n` in. (semaphore.Semaphore.release)"""
        if not self.undo:
            await self._operate(terms.puts(n), 0.0)
            return
        terms.puts(n)
        # Taken off the list before anything is awaited: another task may release meanwhile.
        for hold, count, whole in terms.last(self._held, n, self.text):
            if whole:
                await hold.release()
            else:
                await hold.give_back(count)

    async def hold(self, n: int = 1, wait: float | None = None) -> LoopHold:
        """Takes `n` as `acquire` does, with `undo` always, for an `async with`."""
        return await self._hold(terms.takes(n), wait)

    async def get_value(self) -> int:
        """How many there are now."""
        return (await self._operate([], 0.0)).values[0]

    async def make(self) -> None:
        """Sees to it that it is there. (semaphore.Semaphore.make)"""
        await self._operate([], 0.0)

    async def remove(self) -> None:
        """There is no such semaphore any more. (semaphore.Semaphore.remove)"""
        request = pb.SemaphoreRemoveRequest(name=self.text)

        async def act(stub: Any) -> None:
            await stub.Remove(request, timeout=deadline_of(0))

        await self._place.run(_stub, act)

    # -- several ----------------------------------------------------------------------------------

    async def operate(self, operations: terms.Operations, wait: float | None = None) -> int:
        """One operation on several semaphores of this one's node; its token. (semaphore.Semaphore.operate)"""
        return (await self._operate(terms.several(operations), wait)).token

    async def hold_all(self, operations: terms.Operations, wait: float | None = None) -> LoopHold:
        """The same, undone at the end of the hold."""
        return await self._hold(terms.several(operations), wait)

    # -- inside -----------------------------------------------------------------------------------

    async def _operate(self, operations: list[pb.SemaphoreOperation], wait: float | None) -> pb.SemaphoreReply:
        request = self.request(operations, wait, _task())

        async def act(stub: Any) -> pb.SemaphoreReply:
            reply: pb.SemaphoreReply = await stub.Operate(request, timeout=deadline_of(wait))
            return reply

        return await self._place.run(_stub, act)

    async def _hold(self, operations: list[pb.SemaphoreOperation], wait: float | None) -> LoopHold:
        request = self.request(operations, wait, _task())

        async def act(stub: Any) -> LoopHold:
            call = stub.Hold()
            reply = await loop_first(call, wait, request)
            return LoopHold(call, reply.token)

        hold = await self._place.run(_stub, act)
        self._holds.add(hold)
        return hold

    async def close(self) -> None:
        """Releases all that was taken with it. It can be used again."""
        holds = list(self._holds)  # first: the list below may have the only references
        self._held.clear()
        for hold in holds:
            with contextlib.suppress(Lost):
                await hold.release()
        await self._place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _stub(channel: Any) -> Any:
    return semaphore_pb2_grpc.SemaphoreStub(channel)


def _cancel(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    """Ends a call, from wherever the collector runs."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
        loop.call_soon_threadsafe(call.cancel)


def _task() -> str:
    return f"{id(asyncio.current_task()):x}"


def semaphore(
    name: str,
    value: int | None = None,
    *,
    undo: bool = True,
    node: str | None = None,
    channel: grpc.aio.Channel | None = None,
) -> LoopSemaphore:
    """A counting semaphore that a node keeps. The arguments are those of `ipcd_client.semaphore`.

    Raises:
        BadRequest: it is no name, or no value.
    """
    return LoopSemaphore(name, value, undo=undo, node=node, channel=channel)
