"""The same as following.py, read by a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.primitives.errors import from_status
from ipcd_client.primitives.flags import delays, lasting, unusable
from ipcd_client.primitives.waiting import loop_answer

Opened = Callable[[Any], None]


class Followed(Protocol):
    """As following.Followed."""

    def open(self, opened: Opened) -> Awaitable[None]: ...

    def come(self, reply: Any) -> bool: ...

    def broken(self) -> None: ...

    def failed(self, error: IpcdError) -> None: ...


class Follower:
    """To be started, and closed."""

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the stream.

        Raises:
            IpcdError: it cannot be.
        """
        try:
            await self._followed.open(self._opened)
        except BaseException:
            self._cancel()
            raise
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _opened(self, call: Any) -> None:
        self._call = call

    def _cancel(self) -> None:
        # It holds its connection as long as somebody holds it.
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    while (reply := await loop_answer(self._call, None)) is not None:
                        if not self._followed.come(reply):
                            return
                except grpc.RpcError as error:
                    told: Any = error
                    failure = from_status(told.code(), told.details() or "")
                    if lasting(failure):
                        self._followed.failed(failure)
                        return
                except asyncio.CancelledError:
                    # grpc.aio says so too where the call was cancelled, and not this task.
                    if self._ends():
                        raise
                self._followed.broken()
                if not await self._again():
                    return
        finally:
            self._cancel()

    async def _again(self) -> bool:
        for delay in delays():
            await asyncio.sleep(delay)
            try:
                await self._followed.open(self._opened)
            except IpcdError as error:
                if lasting(error):
                    self._followed.failed(error)
                    return False
            except Exception as error:  # noqa: BLE001  whoever waits is to be told, whatever it is
                self._followed.failed(unusable(error))
                return False
            else:
                return True
        return False

    @staticmethod
    def _ends() -> bool:
        """This task is to end."""
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0

    def renew(self) -> None:
        """Opens the stream again."""
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
