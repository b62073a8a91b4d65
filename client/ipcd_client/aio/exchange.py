"""One call on its way: where it is, whether it is to be tried elsewhere, and who is told of its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.frame.codec import Metadata
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node.introduction import ATTEMPTS
from ipcd_client.node.loop_router import LoopRouter
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall

log = logging.getLogger("ipcd_client")


class Origin(Protocol):
    """What a call needs of its channel."""

    router: LoopRouter
    exchanges: set[Exchange]  # those that run
    max_receive: int


class Exchange(Waiters):
    """`data`: the request, None where requests are streamed. `timeout` in seconds. Begun by `begin`."""

    __slots__ = (
        "_attempt",
        "_callbacks",
        "_connecting",
        "_data",
        "_deadline",
        "_loop",
        "_metadata",
        "_method",
        "_origin",
        "_over",
        "_service",
        "_timer",
        "_wait",
        "cancelled_here",
        "connection",
        "state",
    )

    def __init__(
        self,
        origin: Origin,
        method: str,
        service: str,
        data: bytes | None,
        timeout: float | None,
        metadata: Metadata,
        wait: bool,
    ) -> None:
        super().__init__()
        self.state = ClientCall(method, origin.max_receive)
        self.connection: Connection | None = None
        self.cancelled_here = False
        self._origin = origin
        self._method = method
        self._service = service
        self._data = data
        self._metadata = metadata
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        self._attempt = 0
        self._over = False
        self._callbacks: list[Callable[[], None]] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._deadline = self._timer = None
        if timeout is not None:
            self._deadline = self._loop.time() + timeout
            self._timer = self._loop.call_later(max(0.0, timeout), self._expire)
        origin.exchanges.add(self)

    def begin(self) -> None:
        """Sends the call, at once if there is a connection for it."""
        self._attempt += 1
        if self._deadline is not None and self._deadline <= self._loop.time():
            self._expire()
            return
        connection = self._origin.router.usable(self._service)
        if connection is not None:
            self._start(connection)
        else:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            route = await self._origin.router.connect(self._service, wait=self._wait)
        except IpcdError as error:
            self._connecting = None
            self.end(error.code, str(error))
        else:
            self._connecting = None
            if self.state.code is None:
                self._start(route.connection)

    def _start(self, connection: Connection) -> None:
        self.connection = connection
        state, data, timeout = self.state, self._data, self._deadline
        state.user = self
        if timeout is not None:
            timeout = max(0.0, timeout - self._loop.time())
        connection.start(state, timeout=timeout, metadata=self._metadata, message=data, end=data is not None)
        self.progressed()

    # -- facts ------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """The call has ended, and is not tried again."""
        return self._over

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def call_back(self, callback: Callable[[], None]) -> None:
        """Runs it at the end; now, if that was before."""
        if self._over:
            _run(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    async def ended(self) -> ClientCall:
        """Waits for the end: the call's last state."""
        while not self._over:
            await self.wait()
        return self.state

    async def connected(self) -> None:
        """Waits until the call was sent, or has ended."""
        while self.connection is None and not self._over:
            await self.wait()

    # -- the end ----------------------------------------------------------------------------------

    def cancel(self, details: str) -> bool:
        """Ends it from this side. False if it has ended already."""
        if self._over:
            return False
        self.cancelled_here = True
        self.end(grpc.StatusCode.CANCELLED, details)
        return True

    def end(self, code: grpc.StatusCode, details: str, reset: int = RESET_CANCEL) -> None:
        """Ends it from this side, with that status, if it has not ended."""
        if self.connection is not None and self.state.code is None:
            self.connection.end(self.state, code, details, reset)
        elif self.state.fail(code, details):
            self.progressed()

    def _expire(self) -> None:
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)

    def progressed(self) -> None:
        """(User)"""
        if self.state.code is not None and not self._over:
            self._finish()
        if self._futures:
            super().progressed()

    def _finish(self) -> None:
        state = self.state
        if state.refused and state.code is grpc.StatusCode.UNAVAILABLE and self._again():
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self._origin.exchanges.discard(self)
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                _run(callback)

    def _again(self) -> bool:
        """No handler has seen the call: elsewhere, then. Streamed requests cannot be had a second time."""
        if self._data is None or self._attempt >= ATTEMPTS or self.connection is None:
            return False
        self.connection.retired = True
        self.connection = None
        self.state = ClientCall(self._method, self._origin.max_receive)
        self.begin()
        return True


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("Exception in a callback of a call")
