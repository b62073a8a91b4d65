"""Queues of messages, for event loops: queue.py, with coroutines.

>>> jobs = ipcd_client.aio.queue("jobs", create=True)
>>> await jobs.send(b"one", priority=3)
>>> async with await jobs.receive(ack=False) as message:
...     await work(message.data)
"""

# ruff: noqa: A002 - a message has a type, as System V's have

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.pb.ipcd.v1 import queue_pb2_grpc
from ipcd_client.primitives import queue_parts as parts
from ipcd_client.primitives.errors import from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.queue_parts import Draft, NotAll, Stat, WhenFull
from ipcd_client.primitives.waiting import deadline_of, loop_first
from ipcd_client.rpc.failure import CallFailed

__all__ = ["Draft", "Message", "NotAll", "Notification", "Queue", "Stat", "queue"]


def queue(
    name: str,
    *,
    node: str | None = None,
    channel: grpc.aio.Channel | None = None,
    create: bool = False,
    max_messages: int = 0,
    max_bytes: int = 0,
    when_full: WhenFull = "block",
    lease: float = 0.0,
    deliveries: int = 0,
    dead_letters: str = "",
    durable: bool = False,
) -> Queue:
    """A handle of a queue, of the loop that first uses it; to be closed there. The arguments are those of
    `ipcd_client.queue`.

    Raises:
        BadRequest: an argument is wrong.
    """
    options = parts.options_of(max_messages, max_bytes, when_full, lease, deliveries, dead_letters, durable)
    return Queue(LoopPlace("queue", name, node, channel), options, create=create)


@dataclass(frozen=True, slots=True)
class Message(parts.Received):
    """A message. (queue.Message)"""

    settle: Callable[[parts.Received, pb.QueueSettleRequest.How, float], Awaitable[None]] = field(
        repr=False, compare=False
    )

    async def ack(self) -> None:
        """It is done, and gone. (queue.Message)"""
        await self.settle(self, pb.QueueSettleRequest.ACK, 0.0)

    async def nack(self, delay: float = 0.0) -> None:
        """It goes back to its place in the queue. (queue.Message)"""
        await self.settle(self, pb.QueueSettleRequest.NACK, delay)

    async def extend(self, lease: float = 0.0) -> None:
        """It is held for longer. (queue.Message)"""
        await self.settle(self, pb.QueueSettleRequest.EXTEND, lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.ack()
            return
        try:
            await self.nack()
        except IpcdError as failure:
            error.add_note(self.not_given_back(failure))


class Queue:
    """Made by `queue`. The methods are those of `ipcd_client.primitives.queue.Queue`."""

    def __init__(self, place: LoopPlace, options: pb.QueueOptions, *, create: bool = False) -> None:
        self.name = place.text
        self._place = place
        self._options = options
        self._create = options if create else None

    async def create(self, exist_ok: bool = True) -> bool:
        """Makes it now."""
        request = pb.QueueCreateRequest(name=self.name, options=self._options, exclusive=not exist_ok)
        made: bool = (await self._call("Create", request, 0.0)).made
        return made

    async def send(
        self, data: bytes, priority: int = 0, *, type: int = 1, delay: float = 0.0, timeout: float | None = None
    ) -> int:
        """Sends one message."""
        return (await self.send_many([Draft(data, priority, type, delay)], timeout=timeout))[0]

    async def send_many(self, messages: Iterable[bytes | Draft], *, timeout: float | None = None) -> list[int]:
        """Sends several."""
        sending = parts.Sending(self.name, messages, timeout, self._create)
        while (next_ := sending.request()) is not None:
            try:
                sending.got(await self._call("Send", *next_))
            except Exception as error:
                told = sending.failed(error)
                if told is error:
                    raise
                raise told from error
        return sending.ids

    async def receive(
        self, type: int = 0, timeout: float | None = None, *, ack: bool = True, lease: float = 0.0
    ) -> Message:
        """The next message. Whoever cancels this with `ack=True` may lose one that is on its way: for a limit of time
        there is `timeout`."""
        return (await self.receive_many(1, type, timeout, ack=ack, lease=lease))[0]

    async def receive_many(
        self, most: int, type: int = 0, timeout: float | None = None, *, ack: bool = True, lease: float = 0.0
    ) -> list[Message]:
        """As many as there are now."""
        until = parts.Until(timeout)
        wait = timeout
        while True:
            request = parts.receiving(self.name, type, most, wait, ack, lease, self._create)
            reply = await self._call("Receive", request, wait)
            if not ack or not reply.held:
                return [self._message(message, acknowledged=ack) for message in reply.messages]
            lost, sure = await self._confirm(reply.messages)
            messages = [
                self._message(message, acknowledged=sure) for message in reply.messages if message.id not in lost
            ]
            if messages:
                return messages
            wait = until.left()
            if wait == 0 and timeout:
                raise parts.none_left(self.name)

    async def peek(self, most: int = 1, type: int = 0) -> list[Message]:
        """What would be received."""
        reply = await self._call("Peek", pb.QueuePeekRequest(name=self.name, type=type, most=most), 0.0)
        return [self._message(message) for message in reply.messages]

    async def purge(self) -> int:
        """Throws away all messages but those that somebody holds."""
        count: int = (await self._call("Purge", pb.QueuePurgeRequest(name=self.name), 0.0)).messages
        return count

    async def remove(self) -> int:
        """Removes the queue."""
        count: int = (await self._call("Remove", pb.QueueRemoveRequest(name=self.name), 0.0)).messages
        return count

    async def stat(self) -> Stat:
        """What there is in it."""
        return parts.stat_of(await self._call("Stat", pb.QueueStatRequest(name=self.name), 0.0))

    async def notify(self) -> Notification:
        """Asks to be told, once, of a message that arrives in the empty queue while nobody waits to receive it."""
        request = pb.QueueNotifyRequest(name=self.name, create=self._create)

        async def opened(stub: Any) -> Any:
            call = stub.Notify(request)
            await loop_first(call, 0)
            return call

        return Notification(await self._run(opened), self._place)

    async def close(self) -> None:
        """Lets go of the connection."""
        await self._place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _message(self, message: pb.QueueMessage, *, acknowledged: bool = False) -> Message:
        return Message(**parts.fields_of(message, acknowledged=acknowledged), settle=self._settle)

    async def _settle(self, message: parts.Received, how: pb.QueueSettleRequest.How, seconds: float) -> None:
        request = parts.settling(self.name, [message.receipt], how, seconds, again=False)
        parts.check_settled(await self._call("Settle", request, 0.0), self.name)

    async def _confirm(self, messages: Sequence[pb.QueueMessage]) -> tuple[set[int], bool]:
        end = time.monotonic() + parts.CONFIRM
        again = False
        receipts = parts.receipts_of(messages)
        while True:
            request = parts.settling(self.name, receipts, pb.QueueSettleRequest.ACK, 0.0, again=again)
            try:
                return set((await self._call("Settle", request, 0.0)).lost), True
            except CallFailed as error:
                if error.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                if time.monotonic() > end:
                    # Rather twice than never.
                    return set(), False
            again = True
            await asyncio.sleep(parts.CONFIRM_PAUSE)

    async def _call(self, method: str, request: Any, wait: float | None) -> Any:
        return await self._run(lambda stub: getattr(stub, method)(request, timeout=deadline_of(wait)))

    async def _run(self, act: Callable[[Any], Awaitable[Any]]) -> Any:
        stub: Any = queue_pb2_grpc.QueueStub
        return await self._place.run(stub, act)


class Notification:
    """Of one queue, once. `wait` for it; to be closed."""

    def __init__(self, call: Any, place: LoopPlace) -> None:
        self._call = call
        # Whose channel the call needs, also where nobody keeps the handle.
        self._place = place
        self._reading = asyncio.ensure_future(call.read())

    async def wait(self, timeout: float | None = None) -> bool:
        """Whether a message has arrived, after at most `timeout` seconds.

        Raises:
            NoSuchName, CallFailed: nothing can arrive any more.
        """
        # Not cancelled by that: it may be waited for again.
        await asyncio.wait({self._reading}, timeout=timeout)
        if not self._reading.done():
            return False
        if self._reading.cancelled():
            return False
        try:
            reply = self._reading.result()
            if reply is grpc.aio.EOF:
                await self._call
                return False
        except grpc.RpcError as error:
            failed: Any = error
            raise from_status(failed.code(), failed.details() or "") from error
        arrived: bool = reply.arrived
        return arrived

    async def close(self) -> None:
        """Nothing is told any more."""
        self._call.cancel()
        self._reading.cancel()
        await asyncio.wait({self._reading})
        if not self._reading.cancelled():
            self._reading.exception()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
