"""One call on its way: where it is, whether it is to be tried elsewhere, and who is told of its end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.frame.codec import Metadata
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE
from ipcd_client.loop.alarms import Alarms
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node.introduction import ATTEMPTS
from ipcd_client.node.loop_router import LoopRouter
from ipcd_client.rpc import retry, status
from ipcd_client.rpc.call import ClientCall, LimitedCall
from ipcd_client.rpc.options import Options
from ipcd_client.rpc.service_config import MethodConfig

log = logging.getLogger("ipcd_client")


class Origin(Protocol):
    """What a call needs of its channel."""

    router: LoopRouter
    exchanges: set[Exchange]  # those that run
    options: Options
    throttle: retry.Throttle | None
    alarms: Alarms | None  # made with the first deadline


class Exchange(Waiters):
    """`data`: the request, None where requests are streamed. `timeout` in seconds. `config`: what the channel's service
    config says of the method. Begun by `begin`."""

    __slots__ = (
        "_alarms",
        "_callbacks",
        "_connecting",
        "_data",
        "_deadline",
        "_ending",
        "_kept",
        "_limit",
        "_loop",
        "_metadata",
        "_method",
        "_origin",
        "_over",
        "_replaying",
        "_restarts",
        "_resuming",
        "_service",
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
        config: MethodConfig | None = None,
    ) -> None:
        super().__init__()
        self._limit = limit = origin.options.max_receive
        self.state = ClientCall(method, limit)
        self.connection: Connection | None = None
        self.cancelled_here = False
        self._origin = origin
        self._method = method
        self._service = service
        self._data = data
        self._metadata = metadata
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._ending = False  # from this side: no further attempt
        self._restarts: retry.Restarts | None = None
        self._resuming: asyncio.TimerHandle | None = None
        self._kept = retry.Kept(retry.KEPT_MOST) if data is None else None
        self._replaying = False
        if config is not None:
            self._configure(config)
        self._callbacks: list[Callable[[], None]] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        self._alarms: Alarms | None = None
        if timeout is not None:
            self._deadline = self._loop.time() + timeout
            alarms = origin.alarms
            if alarms is None or alarms.loop is not self._loop:
                alarms = origin.alarms = Alarms(self._loop)
            self._alarms = alarms
            alarms.expect(self, self._deadline)
        origin.exchanges.add(self)

    def _configure(self, config: MethodConfig) -> None:
        options = self._origin.options
        self._limit = config.receives(self._limit)
        self.state = self._new_state()
        if config.retry is None or not options.retries:
            return
        self._metadata = retry.without_previous(tuple(self._metadata))
        retries = retry.Retries(config.retry, self._origin.throttle, options.retry_buffer)
        retries.holds(retry.cost(self._method, self._metadata) + len(self._data or b""))
        self._restarts = retry.Restarts(ATTEMPTS, retries)
        if self._kept is not None:
            self._kept = retry.Kept(options.retry_buffer)

    def _new_state(self) -> ClientCall:
        lower = self._limit != self._origin.options.max_receive
        return LimitedCall(self._method, self._limit) if lower else ClientCall(self._method, self._limit)

    def begin(self) -> None:
        """Sends the call, at once if there is a connection for it."""
        self._resuming = None
        if self._deadline is not None and self._deadline <= self._loop.time():
            self.expire()
            return
        connection = self._origin.router.usable(self._service)
        if connection is not None:
            self._start(connection)
        else:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            route = await self._origin.router.connect(self._service, wait=self._wait)
        except Exception as error:
            if not isinstance(error, IpcdError):
                log.exception("%s: no connection", self._method)
            self._connecting = None
            code = error.code if isinstance(error, IpcdError) else grpc.StatusCode.INTERNAL
            if self.state.fail(code, str(error)):
                self.progressed()
        else:
            self._connecting = None
            if self.state.code is None:
                self._start(route.connection)

    def _start(self, connection: Connection) -> None:
        self.connection = connection
        state, data, timeout, metadata = self.state, self._data, self._deadline, self._metadata
        state.user = self
        if self._restarts is not None:
            metadata = self._restarts.metadata(tuple(metadata))
        if timeout is not None:
            timeout = max(0.0, timeout - self._loop.time())
        connection.start(state, timeout=timeout, metadata=metadata, message=data, end=data is not None)
        kept = self._kept
        if kept is not None and (kept.requests or kept.ended):
            self._replaying = True
            self._connecting = self._loop.create_task(self._replay(kept, connection, state))
        self.progressed()

    # -- streamed requests ------------------------------------------------------------------------

    async def send(self, request: bytes) -> bool:
        """Sends one to wherever the call goes. False: the call is over."""
        kept = self._kept
        assert kept is not None
        await self.connected()
        connection, state = self.connection, self.state
        if connection is None or self._over:
            return False
        # Before it is sent: if the call ends meanwhile and is started again, it is sent with the others.
        kept.add(request, state)
        if await connection.send(state, request):
            return True
        await self.connected()
        return not self._over

    async def close_send(self) -> None:
        """There is no further request."""
        await self.connected()
        if self._kept is not None and self.connection is not None:
            self._kept.ended = True
            self.connection.close_send(self.state)

    async def _replay(self, kept: retry.Kept, connection: Connection, state: ClientCall) -> None:
        """Sends once more what was sent before the call was started again."""
        for request in list(kept.requests):
            if not await connection.send(state, request):
                break
        if self.state is state:
            if kept.ended:
                connection.close_send(state)
            self._replaying = False
            self._connecting = None
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
        """Waits until the call was sent, with all that is to be sent again, or has ended."""
        while (self.connection is None or self._replaying) and not self._over:
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
        self._ending = True
        if self.connection is not None and self.state.code is None:
            self.connection.end(self.state, code, details, reset)
        elif self.state.fail(code, details):
            self.progressed()

    def expire(self) -> None:
        """The deadline has passed. (Expiring)"""
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)

    def progressed(self) -> None:
        """(User)"""
        if self.state.code is not None and not self._over:
            self._finish()
        if self._futures:
            super().progressed()

    def _finish(self) -> None:
        state = self.state
        if (state.refused or self._restarts is not None) and self._again(state):
            return
        self._over = True
        if self._resuming is not None:
            self._resuming.cancel()
        if self._alarms is not None:
            self._alarms.forget(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self._origin.exchanges.discard(self)
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                _run(callback)

    def _again(self, state: ClientCall) -> bool:
        """Whether the call, which has ended in `state`, goes on: because a server has refused it, or a policy allows
        another attempt."""
        if self._ending:
            return False
        if self._restarts is None:
            self._restarts = retry.Restarts(ATTEMPTS)
        replayable = self._kept is None or self._kept.replayable
        pause = self._restarts.after(state, random.random(), replayable=replayable)
        if pause is None:
            return False
        if state.refused and self.connection is not None:
            self.connection.retired = True
        self.connection = None
        self._replaying = False
        self.state = self._new_state()
        if pause:
            self._resuming = self._loop.call_later(pause, self.begin)
        else:
            self.begin()
        return True


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("Exception in a callback of a call")
