"""The objects that calls of a `grpc.aio.Channel` give: one class for each of the four kinds."""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from typing import Any, Final

import grpc
from grpc.aio import EOF, AioRpcError, Metadata, UsageError

from ipcd_client.aio.exchange import Exchange
from ipcd_client.facade.messages import parsed
from ipcd_client.frame.codec import Payload
from ipcd_client.rpc import status

log = logging.getLogger("ipcd_client")

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None

# Texts of grpc.aio.
_COLLECTED: Final = "Cancelled upon garbage collection!"
_FINISHED: Final = "RPC already finished."
_HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'
_MIXED: Final = "The iterator and read/write APIs may not be mixed on a single RPC."


class _Style(enum.Enum):
    UNKNOWN = 0
    ITERATOR = 1
    READ_WRITE = 2


class Call(grpc.aio.Call):
    """What the four have in common. `broken`: why it was never sent, to be raised to whoever waits for it."""

    def __init__(
        self, exchange: Exchange, serialize: Serializer, deserialize: Deserializer, broken: Exception | None = None
    ) -> None:
        self._exchange = exchange
        self._serialize = serialize
        self._deserialize = deserialize
        self._broken = broken

    # -- grpc.RpcContext, grpc.aio.Call -----------------------------------------------------------

    def done(self) -> bool:
        return self._exchange.done

    def cancelled(self) -> bool:
        return self._exchange.done and self._exchange.state.code is grpc.StatusCode.CANCELLED

    def cancel(self) -> bool:
        return self._exchange.cancel(status.LOCALLY_CANCELLED)

    def time_remaining(self) -> float | None:
        return self._exchange.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.call_back(functools.partial(callback, self))

    async def initial_metadata(self) -> Metadata:
        exchange = self._exchange
        while exchange.state.initial_metadata is None:
            await exchange.wait()
        return Metadata(*exchange.state.initial_metadata)

    async def trailing_metadata(self) -> Metadata:
        return Metadata(*(await self._exchange.ended()).trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        code = (await self._exchange.ended()).code
        assert code is not None
        return code

    async def details(self) -> str:
        return (await self._exchange.ended()).details

    async def debug_error_string(self) -> str:
        """Details, and who the peer was."""
        return self._debug((await self._exchange.ended()).details)

    async def wait_for_connection(self) -> None:
        """Until the call was sent.

        Raises:
            grpc.aio.AioRpcError: it ended before.
        """
        await self._exchange.connected()
        if self._exchange.done:
            self._raise_for_status()

    # -- inside -----------------------------------------------------------------------------------

    def _debug(self, details: str) -> str:
        connection = self._exchange.connection
        return f"{details} [peer: {connection.wire.peer()}]" if connection is not None else details

    def _raise_for_status(self) -> None:
        """Raises:
        asyncio.CancelledError: the call was cancelled on this side.
        grpc.aio.AioRpcError: it ended with another status than OK.
        """
        if self._broken is not None:
            raise self._broken
        if self._exchange.cancelled_here:
            raise asyncio.CancelledError
        state = self._exchange.state
        code = state.code
        if code is not None and code is not grpc.StatusCode.OK:
            raise AioRpcError(
                code,
                Metadata(*(state.initial_metadata or ())),
                Metadata(*state.trailing_metadata),
                details=state.details,
                debug_error_string=self._debug(state.details),
            )

    def _parsed(self, data: Payload) -> Any:
        # A message that does not parse is logged, and comes as None: as of grpc.aio.
        try:
            return parsed(data, self._deserialize)
        except Exception:
            log.exception(status.DESERIALIZE_RESPONSE_FAILED)
            return None

    def __repr__(self) -> str:
        state = self._exchange.state
        if not self._exchange.done:
            return f"<{type(self).__name__} of RPC that has not terminated>"
        return (
            f"<{type(self).__name__} of RPC that terminated with:\n\tstatus = {state.code}\n"
            f'\tdetails = "{state.details}"\n>'
        )

    __str__ = __repr__


class _UnaryResponse(Call):
    """Awaiting it gives the response."""

    _response: Any = None
    _taken = False

    def __await__(self) -> Generator[Any, None, Any]:
        exchange = self._exchange
        if not exchange.done and self._broken is None:
            try:
                yield from exchange.ended().__await__()
            except asyncio.CancelledError:
                # A task that waits for a call and is cancelled cancels the call.
                self.cancel()
                raise
        if not self._taken:
            self._raise_for_status()
            messages = exchange.state.messages
            if messages:
                self._response = self._parsed(messages.popleft()[0])
            self._taken = True
        return self._response


class _StreamResponse(Call):
    """Responses come by iteration or by `read`, not by both."""

    _style = _Style.UNKNOWN
    _iterator: AsyncIterator[Any] | None = None

    def done(self) -> bool:
        # What came before the end is still to be read, unless nobody wanted it any more.
        return self._exchange.done and (self._exchange.cancelled_here or not self._exchange.state.messages)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._use(_Style.ITERATOR)
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def read(self) -> Any:
        if self.done():
            self._raise_for_status()
            return EOF
        self._use(_Style.READ_WRITE)
        message = await self._next()
        if message is EOF:
            self._raise_for_status()
        return message

    async def _responses(self) -> AsyncIterator[Any]:
        while (message := await self._next()) is not EOF:
            yield message
        self._raise_for_status()

    async def _next(self) -> Any:
        exchange = self._exchange
        try:
            while not exchange.state.messages and not exchange.done and self._broken is None:
                await exchange.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if exchange.cancelled_here or not exchange.state.messages or exchange.connection is None:
            return EOF
        return self._parsed(exchange.connection.take(exchange.state))

    def _use(self, style: _Style) -> None:
        if self._style is _Style.UNKNOWN:
            self._style = style
        elif self._style is not style:
            raise UsageError(_MIXED)

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        if exchange is not None and not exchange.done:
            exchange.cancel(_COLLECTED)


class _StreamRequest(Call):
    """Requests come from an iterator, or by `write`."""

    _half_closed = False
    _feeding: asyncio.Task[None] | None = None
    _max_send = -1

    def feed(self, requests: Any, max_send: int) -> None:
        """Sends what the program's iterator gives, in a task; without one, `write` does. `max_send` in bytes."""
        self._max_send = max_send
        if requests is not None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(requests))
            # The iterator is of no use any more when the call is over.
            self._exchange.call_back(self._stop_feeding)

    def _stop_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()

    async def write(self, request: Any) -> None:
        self._written_by_hand()
        await self._write(request)

    async def done_writing(self) -> None:
        self._written_by_hand()
        await self._close()

    def _written_by_hand(self) -> None:
        if self._feeding is not None:
            raise UsageError(_MIXED)

    async def _feed(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._close()
        except AioRpcError:
            pass  # the call is over, which whoever waits for it is told
        except BaseException as error:
            if not self._exchange.done:
                log.debug("an iterator of requests failed", exc_info=True)
                self.cancel()
            if not isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
                raise

    async def _write(self, request: Any) -> None:
        exchange = self._exchange
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)
        if self._half_closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        try:
            await exchange.connected()
            if exchange.done:
                self._raise_for_status()
                return
            data = request if self._serialize is None else self._serialize(request)
            if 0 <= self._max_send < len(data):
                exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), self._max_send))
                self._raise_for_status()
            if not await exchange.send(data):
                self._raise_for_status()
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _close(self) -> None:
        if self.done() or self._half_closed:
            return
        self._half_closed = True
        await self._exchange.close_send()


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""

    async def wait_for_connection(self) -> None:
        # As of grpc.aio, where it waits for the response too.
        await self._exchange.ended()
        self._raise_for_status()


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""
