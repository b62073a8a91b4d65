"""The four kinds of method, where the channel's service config says something of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc

from ipcd_client.facade import multicallable
from ipcd_client.facade.call import Call, Deserializer
from ipcd_client.facade.exchange import Exchange, Failed, Plan
from ipcd_client.facade.feeder import Feeder
from ipcd_client.rpc import retry
from ipcd_client.rpc.call import ClientCall, LimitedCall
from ipcd_client.rpc.retry import Retries
from ipcd_client.rpc.service_config import MethodConfig, Throttling
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.channel import Channel


class SharedThrottle(retry.Throttle):
    """The tokens of one channel, for all of its threads."""

    def __init__(self, throttling: Throttling) -> None:
        super().__init__(throttling)
        self._lock = threading.Lock()

    def failed(self) -> bool:
        with self._lock:
            return super().failed()

    def succeeded(self) -> None:
        with self._lock:
            super().succeeded()


class Configured(multicallable.Method):
    """What the four have in common. `config`: what is said of the method."""

    def __init__(
        self,
        channel: Channel,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Deserializer,
        config: MethodConfig,
    ) -> None:
        super().__init__(channel, method, serialize, deserialize)
        self._config = config
        self._policy = config.retry if channel.options.retries else None
        self._throttle = channel.throttle if self._policy is not None else None
        self._buffer = channel.options.retry_buffer
        self._max_send = config.sends(self._max_send)
        self._plain_send = multicallable.plain_send(self._max_send)
        # What the connection has lets all through that its other methods may get.
        self._max_receive = config.receives(self._max_receive)
        self._limited = self._max_receive != channel.options.max_receive

    def _state(self) -> ClientCall:
        return LimitedCall(self._method, self._max_receive) if self._limited else super()._state()

    def _checked(self, metadata: Any, credentials: Any) -> retry.Entries:
        if self._config.error:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, self._config.error)
        entries = super()._checked(metadata, credentials)
        return entries if self._policy is None else retry.without_previous(entries)

    def _launch(
        self,
        kind: type[Call],
        request: Any,
        requests: Feeder | None,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
    ) -> Any:
        timeout, wait_for_ready = self._config.within(timeout), self._config.waits(wait_for_ready)
        return super()._launch(kind, request, requests, timeout, metadata, credentials, wait_for_ready)

    def _plan(self, wait: bool, metadata: retry.Entries, data: bytes | None, requests: Feeder | None) -> Plan:
        plan = super()._plan(wait, metadata, data, requests)
        if self._policy is not None:
            retries = Retries(self._policy, self._throttle, self._buffer)
            retries.holds(retry.cost(self._method, metadata) + len(data or b""))
            plan.restarts.retries = retries
        return plan

    def _feeder(self, requests: Any) -> Feeder:
        if self._policy is None:
            return super()._feeder(requests)
        return Feeder(requests, self._serialize, self._max_send, self._buffer)


class UnaryUnary(Configured, multicallable.UnaryUnary):
    """One request, one response. The first attempt is made as without a policy, by the calling thread."""

    def __init__(
        self,
        channel: Channel,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Deserializer,
        config: MethodConfig,
    ) -> None:
        super().__init__(channel, method, serialize, deserialize, config)
        # The shortest way looks at no limit but the connection's, and tells nobody that the call has ended well.
        self._plain = not (config.error or self._limited or self._throttle is not None)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        if self._plain:
            timeout = self._config.within(timeout)
            return super().__call__(request, timeout, metadata, credentials, wait_for_ready, compression)
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def _blocking(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: bool | None,
        begun: multicallable.Begun | None,
    ) -> tuple[ClientCall, Connection | None]:
        config = self._config
        if config.error:
            state = self._state()
            state.fail(grpc.StatusCode.INVALID_ARGUMENT, config.error)
            return state, None
        timeout, wait = config.within(timeout), config.waits(wait_for_ready)
        deadline = begun.deadline if begun is not None else None if timeout is None else monotonic() + timeout
        state, connection = super()._blocking(request, timeout, metadata, credentials, wait, begun)
        # Without a connection, the call was not fit to be sent, or there is no server.
        was_made = connection is not None or state.code is grpc.StatusCode.UNAVAILABLE
        if self._policy is None or not was_made:
            return state, connection
        if state.code is grpc.StatusCode.OK:
            if self._throttle is not None:
                self._throttle.succeeded()
            return state, connection
        return self._tried_again(state, connection, request, metadata, deadline, bool(wait))

    def _tried_again(
        self,
        state: ClientCall,
        connection: Connection | None,
        request: Any,
        metadata: Any,
        deadline: float | None,
        wait: bool,
    ) -> tuple[ClientCall, Connection | None]:
        """What becomes of a call whose first attempt has failed in `state`."""
        entries = self._checked(metadata, None)
        plan = self._plan(wait, entries, self._request(request), None)
        pause = None
        retries = plan.restarts.retries
        if retries is not None and (deadline is None or monotonic() < deadline):
            pause = retries.after(state, random.random())
        if pause is None:
            return state, connection
        exchange = Exchange(self._state(), None, deadline, plan=plan)
        exchange.resume(pause)
        try:
            exchange.wait()
        except BaseException:
            # Ctrl-C: nobody waits for the answer any more.
            exchange.cancel()
            raise
        connection, state = exchange.link
        return state, connection


class UnaryStream(Configured, multicallable.UnaryStream):
    """One request, a stream of responses."""


class StreamUnary(Configured, multicallable.StreamUnary):
    """A stream of requests, one response."""


class StreamStream(Configured, multicallable.StreamStream):
    """A stream of requests, a stream of responses."""
