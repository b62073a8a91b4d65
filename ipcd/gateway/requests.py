"""What a caller sends: read from grpcio one message at a time, and kept while the call may have to begin again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from grpc.aio import EOF
from ipcd_client.errors import IpcdError
from ipcd_client.loop.connection import Connection
from ipcd_client.primitives import waiting
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.rpc.call import ClientCall

from ipcd.gateway.budget import Budget

# Seconds for which a call waits for its first message, so that both travel in one frame. Most bring it along.
_TOGETHER: Final = 0.005
# Bytes of requests that are kept for another try, beside the first message.
_KEPT: Final = 64 << 10


class Cancelled(Exception):
    """The end of the requests was the end of the call."""


class Requests:
    """Of one call. `context` is grpcio's; `handler` is the task that grpcio cancels when the caller is gone."""

    def __init__(self, context: Any, handler: asyncio.Task[Any], held: Budget) -> None:
        self._context = context
        self._handler = handler
        self._held = held
        self._reading: asyncio.Task[Any] | None = None
        self._kept: list[bytes] | None = []
        self._size = 0
        self._next = 0  # of those kept

    @property
    def replayable(self) -> bool:
        """All that was read is still here."""
        return self._kept is not None

    def rewind(self) -> None:
        """The next message is the first one again."""
        self._next = 0

    def forget(self) -> None:
        """The call does not begin again."""
        if self._kept is not None:
            self._kept = None
            self._held.give(self._size)

    async def first(self) -> bytes | None:
        """The first message, if it comes soon."""
        if self._next < len(self._kept or ()):
            return await self._read()
        await asyncio.wait({self._begin()}, timeout=_TOGETHER)
        return await self._read() if self._begin().done() and self._begin().result() is not EOF else None

    async def sure(self) -> bytes:
        """The first message, before anything is known of the call.

        Raises:
            BadRequest: none came in `waiting.FIRST` seconds, or none will.
        """
        # Not cancelled by that. (_read)
        await asyncio.wait({self._begin()}, timeout=waiting.FIRST)
        if not self._begin().done():
            raise waiting.no_request()
        message = await self._read()
        if message is None:
            raise BadRequest("the call has no request, which would name a thing")
        return message

    async def send_to(self, connection: Connection, call: ClientCall) -> None:
        """Sends what is left, at the pace of the server. A limit that is reached ends the call."""
        try:
            while (message := await self._read()) is not None:
                size = len(message)
                self._held.take(size)
                try:
                    if not await connection.send(call, message):
                        return
                finally:
                    self._held.give(size)
        except IpcdError as error:
            connection.end(call, error.code, str(error))
        except Cancelled:
            pass  # grpcio cancels the handler, which ends the call
        else:
            connection.close_send(call)

    async def _read(self) -> bytes | None:
        if self._kept is not None and self._next < len(self._kept):
            self._next += 1
            return self._kept[self._next - 1]
        # A read that is under way belongs to the call, not to whoever waits for it.
        reading = self._begin()
        await asyncio.wait({reading})
        message = reading.result()
        if message is EOF:
            await self._check_end()
            return None
        self._reading = None
        self._keep(message)
        data: bytes = message
        return data

    def _keep(self, message: bytes) -> None:
        if self._kept is None:
            return
        if self._kept and self._size + len(message) > _KEPT:
            self.forget()
            return
        self._held.take(len(message))
        self._size += len(message)
        self._next += 1
        self._kept.append(message)

    async def _check_end(self) -> None:
        """grpcio tells of the end of the requests in the same way when the caller has cancelled or is gone, before it
        cancels the handler: a server must not take what was cut off for the whole. What is asked of grpcio now is
        answered after it has told of that."""
        await self._context.read()
        if self._handler.cancelling():
            raise Cancelled

    def _begin(self) -> asyncio.Task[Any]:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._context.read())
        return self._reading

    def close(self) -> None:
        """Nothing is read any more. A read under way ends with the call, and is not cancelled: grpcio writes into what
        it was given."""
        self.forget()
        if self._reading is not None:
            self._reading.add_done_callback(_looked_at)


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Whatever a read of a call that is over ended with concerns nobody."""
    if not task.cancelled():
        task.exception()
