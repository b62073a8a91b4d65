"""`grpc.aio.Channel`, whose calls find their servers through the node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Self, TypeVar

import grpc
from grpc.aio import UsageError

from ipcd_client.aio.call import Deserializer, Serializer
from ipcd_client.aio.exchange import Exchange
from ipcd_client.aio.multicallable import Method, StreamStream, StreamUnary, UnaryStream, UnaryUnary
from ipcd_client.loop.alarms import Alarms
from ipcd_client.node import target as targets
from ipcd_client.node.loop_router import LoopNodeRouter, LoopRouter, Route
from ipcd_client.node.paths import default_socket
from ipcd_client.rpc import service_config, status
from ipcd_client.rpc.options import Options
from ipcd_client.rpc.retry import Throttle

State = grpc.ChannelConnectivity
M = TypeVar("M", bound=Method)

_INTERCEPTORS: Final = (
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
)


class Channel(grpc.aio.Channel):
    """See `ipcd_client.aio.channel`. Belongs to the loop that first uses it."""

    def __init__(
        self,
        target: str,
        *,
        node: str | None,
        transport: str,
        options: Sequence[tuple[str, Any]] | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] | None,
        router: type[LoopRouter] | None = None,
    ) -> None:
        self.target = target
        self.options = Options.parse(options)
        self.service_config = service_config.given(self.options.service_config, target)
        throttling = self.service_config.throttling
        self.alarms: Alarms | None = None
        self.throttle = None if throttling is None else Throttle(throttling)
        self.exchanges: set[Exchange] = set()
        self._closed = False
        self._interceptors: dict[type, list[Any]] = {kind: [] for kind in _INTERCEPTORS}
        for interceptor in interceptors or ():
            # As of grpc.aio: one that is of several kinds is taken for the first.
            kind = next((kind for kind in _INTERCEPTORS if isinstance(interceptor, kind)), None)
            if kind is None:
                names = " or ".join(kind.__name__ for kind in _INTERCEPTORS)
                raise ValueError(f"Interceptor {interceptor} must be {names}.")
            self._interceptors[kind].append(interceptor)
        own = router or (LoopNodeRouter if target == targets.NODE_API else LoopRouter)
        parsed = targets.Target("", "") if target == targets.NODE_API else targets.parse(target)
        settings = self.options.settings(accept_calls=False)
        self.router = own(node or default_socket(), parsed, transport, settings, self.options.spread)

    # -- grpc.aio.Channel -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Takes no new calls; those under way have `grace` seconds, and are cancelled then.

        Raises:
            ValueError: `grace` is negative.
        """
        if self._closed:
            return
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        self._closed = True
        running = [asyncio.ensure_future(exchange.ended()) for exchange in self.exchanges]
        try:
            if running and grace:
                await asyncio.wait(running, timeout=grace)
        finally:
            for exchange in list(self.exchanges):
                exchange.cancel(status.CHANNEL_CLOSED)
            for ended in running:
                ended.cancel()
            if self.alarms is not None:
                self.alarms.close()
            self.router.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Whether the node can be asked. A server is looked for with each service's first call."""
        if self._closed:
            return State.SHUTDOWN
        attachment = self.router.attachment()
        if attachment.connected is not None:
            return State.READY
        state = State.TRANSIENT_FAILURE if attachment.failed else State.IDLE
        if attachment.connecting:
            state = State.CONNECTING
        elif try_to_connect:
            attachment.keep_trying()
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Until the state is another one.

        Raises:
            grpc.aio.UsageError: the channel is closed, so that it never will be.
        """
        while self.get_state() is last_observed_state:
            if self._closed:
                raise UsageError("Channel is closed.")
            await self.router.attachment().changed.wait()

    async def channel_ready(self) -> None:
        """Until the node can be asked."""
        while (state := self.get_state(try_to_connect=True)) is not State.READY:
            await self.wait_for_state_change(state)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        return self._method(
            UnaryUnary, method, request_serializer, response_deserializer, grpc.aio.UnaryUnaryClientInterceptor
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        return self._method(
            UnaryStream, method, request_serializer, response_deserializer, grpc.aio.UnaryStreamClientInterceptor
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        return self._method(
            StreamUnary, method, request_serializer, response_deserializer, grpc.aio.StreamUnaryClientInterceptor
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        return self._method(
            StreamStream, method, request_serializer, response_deserializer, grpc.aio.StreamStreamClientInterceptor
        )

    def _method(
        self, kind: type[M], method: str, serialize: Serializer, deserialize: Deserializer, interceptors: type
    ) -> M:
        return kind(self, method, serialize, deserialize, self._interceptors[interceptors])

    # -- beyond grpc ------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises:
        grpc.aio.UsageError: the channel was closed; as grpc.aio does.
        """
        if self._closed:
            raise UsageError("Channel is closed.")

    async def route(self, service: str, *, wait_for_ready: bool = False) -> Route:
        """The connection that calls of `service` take, made if there is none yet: with whom, over what, and why.

        Raises:
            IpcdError: there is no server, or no connection with it.
        """
        self.check_open()
        return await self.router.connect(service, wait=wait_for_ready)
