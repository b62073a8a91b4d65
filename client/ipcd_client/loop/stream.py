"""The caller's end of one call, on an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from ipcd_client.loop.waiters import Waiters
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd

if TYPE_CHECKING:
    from ipcd_client.loop.connection import Connection


class ClientStream:
    """A call that we made. It must be finished or cancelled; dropping it leaves it open."""

    def __init__(self, connection: Connection, call: ClientCall) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._connection = connection
        self._call = call
        self._news = call.user = Waiters()

    @property
    def done(self) -> bool:
        """The call has ended; messages may still be there to be received."""
        return self._call.done

    async def send(self, message: bytes, *, end: bool = False) -> bool:
        """Sends a message once there is credit. `end`: it is the last. False: the call has ended."""
        return await self._connection.send(self._call, message, end=end)

    def close_send(self) -> None:
        """There is no further message."""
        self._connection.close_send(self._call)

    async def receive(self) -> bytes | None:
        """The next message; None at the end.

        Raises:
            CallFailed: the call ended with another status than OK.
        """
        call = self._call
        try:
            while not call.messages and not call.done:
                await self._news.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if call.messages:
            return bytes(self._connection.take(call))
        self._stop_timer()
        if call.code is not grpc.StatusCode.OK:
            raise CallFailed.of(call)
        return None

    async def finish(self) -> None:
        """Waits for the status.

        Raises:
            CallFailed: any other than OK.
        """
        call = self._call
        try:
            while not call.done:
                await self._news.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._stop_timer()
        if call.code is not grpc.StatusCode.OK:
            raise CallFailed.of(call)

    def take_fds(self, count: int | None = None) -> list[Fd]:
        """The first `count` descriptors that came and were not taken yet, or all; owned by the caller of this."""
        fds = self._call.fds
        return [fds.popleft() for _ in range(len(fds) if count is None else min(count, len(fds)))]

    def cancel(self) -> bool:
        """Gives the call up, and closes descriptors that nobody took. False if it had ended."""
        self._stop_timer()
        cancelled = self._connection.end(self._call, grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED)
        close_all(self._call.fds)
        return cancelled

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def __aiter__(self) -> ClientStream:
        return self

    async def __anext__(self) -> bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message


def close_all(fds: Sequence[Fd] | deque[Fd]) -> None:
    """Closes descriptors that nobody took."""
    for fd in fds:
        fd.close()
    if isinstance(fds, deque):
        fds.clear()
