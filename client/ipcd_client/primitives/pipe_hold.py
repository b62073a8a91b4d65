"""An end of a pipe at the pipe's home: a call that lasts as long as the end is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc.aio import EOF

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import Lost, NoSuchName, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.waiting import loop_first
from ipcd_client.rpc.failure import CallFailed

# Seconds between attempts to hold the end again, when the home's daemon is gone; and for which an end without any
# connection waits for that.
PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
LOST_AFTER: Final = 15.0
# Seconds within which all who had a pipe open are there again, at a home that was started again.
RETURN: Final = 3.0
# Seconds for the home to hear that an end is closed.
LEAVE: Final = 2.0


class Hold:
    """`news`: of the other side. `changed` is called when there are any. While `attached` is False the home cannot be
    asked, and what it said last may be wrong. `error`: there will be no more news."""

    def __init__(self, place: LoopPlace, request: pipe_pb2.PipeOpen, changed: Callable[[], None]) -> None:
        self.news = pipe_pb2.PipeNews()
        self.attached = False
        self.removed = False
        self.error: Exception | None = None
        self._place = place
        self._request = request
        self._changed = changed
        self._call: Any = None
        self._closing = False
        self._settled = True  # whom the home does not know by now will not come
        self._settling: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def deserted(self) -> bool:
        """As far as can be known, nobody has the other side open."""
        if self.removed or self.error is not None:
            return True
        return self.attached and self._settled and not self.news.others

    async def open(self, wait: float | None) -> None:
        """Returns when the end is open.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: it is not.
        """
        if wait is not None:
            self._request.wait = wait
        await self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, wait))
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """The home knows, if it can be reached."""
        self._closing = True
        self._settle()
        if self._task is None:
            return
        # The task is not cancelled: that would cancel the call, and the home would hear of it later than of its end.
        call = self._call
        if call is not None:
            with contextlib.suppress(TimeoutError, grpc.RpcError, asyncio.InvalidStateError):
                async with asyncio.timeout(LEAVE):
                    await call.done_writing()
                    await asyncio.wait({self._task})
            call.cancel()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _begin(self, stub: Any, wait: float | None) -> None:
        self._request.name = f"{self._place.name}@{await self._place.home()}" if self._again else self._place.text
        call = stub.Open()
        news = await loop_first(call, wait, self._request)
        self._call = call
        self._settle()
        if self._again:
            self._settled = False
            self._settling = asyncio.get_running_loop().call_later(RETURN, self._settle_now)
        self.attached = True
        self.news = news
        self._changed()

    def _settle(self) -> None:
        self._settled = True
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def _settle_now(self) -> None:
        self._settle()
        self._changed()

    @property
    def _again(self) -> bool:
        return self._request.again

    async def _follow(self) -> None:
        while True:
            try:
                news = await self._call.read()
            except grpc.RpcError as error:
                failure = _failure(error)
            else:
                if news is not EOF:
                    self.news = news
                    self._changed()
                    continue
                failure = CallFailed(grpc.StatusCode.UNAVAILABLE, "the pipe's home ended the call")
            self._call = None
            self.attached = False
            if self._closing:
                return
            if isinstance(failure, NoSuchName):
                self.removed = True
                self._changed()
                return
            if not await self._hold_again(failure):
                return

    async def _hold_again(self, failure: Exception) -> bool:
        """Until the home is back. False: it does not let us."""
        self._request.again = True
        lost_at = asyncio.get_running_loop().time() + LOST_AFTER
        for attempt in range(1 << 30):
            code = getattr(failure, "code", None)
            if code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}:
                self.error = failure
            elif asyncio.get_running_loop().time() >= lost_at:
                self.error = Lost(f"the home of the pipe {self._place.name} is gone: {failure}")
            self._changed()
            if self.error is not None and not isinstance(self.error, Lost):
                return False
            await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            try:
                await self._place.run(pipe_pb2_grpc.PipeStub, lambda stub: self._begin(stub, 0))
            except IpcdError as error:
                failure = error
            else:
                self.error = None
                self._changed()
                return True
        return False


def _failure(error: Any) -> Exception:
    return from_status(error.code(), error.details() or "")
