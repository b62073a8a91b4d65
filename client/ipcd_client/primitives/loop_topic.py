"""Topics, for event loops.

>>> async with ipcd_client.aio.topic("orders.>") as orders, await orders.subscribe() as messages:
...     async for message in messages:
...         print(message.subject, message.data)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc.aio import EOF

from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import subjects, topics
from ipcd_client.primitives.errors import Empty, Lost, TimedOut, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.place import MARGIN, deadline_of
from ipcd_client.primitives.topics import Flow, Message, Policy, Published, Wish


class Topic:
    """(primitives.topic.Topic)"""

    def __init__(self, place: LoopPlace) -> None:
        self._place = place
        self.name = subjects.pattern(place.text)

    async def publish(
        self, data: bytes, *, retain: bool = False, keep: int = 0, wait: float | None = None
    ) -> Published:
        """(primitives.topic.Topic)"""
        subjects.subject(self._place.text)
        request = topics.publish_request(self._place.text, data, max(keep, int(retain)), wait)
        return topics.published(
            await self._place.run(_stub, lambda stub: stub.Publish(request, timeout=deadline_of(wait)))
        )

    async def subscribe(
        self,
        *,
        policy: Policy = "drop-oldest",
        most: int = 0,
        most_bytes: int = 0,
        group: str = "",
        replay: int = 0,
        prefetch: int | None = None,
    ) -> Subscription:
        """(primitives.topic.Topic)"""
        wish = Wish(policy, most, most_bytes, group, replay, prefetch)
        subscription = Subscription(self._place, Flow(self._place.text, wish))
        await subscription.start()
        return subscription

    async def last(self, most: int = 1) -> list[Message]:
        """(primitives.topic.Topic)"""
        request = topic_pb2.TopicReplayRequest(name=self._place.text, most=most)

        async def act(stub: Any) -> list[Message]:
            return [topics.kept(message) async for message in stub.Replay(request, timeout=MARGIN)]

        return await self._place.run(_stub, act)

    async def forget(self) -> int:
        """(primitives.topic.Topic)"""
        request = topic_pb2.TopicForgetRequest(name=self._place.text)
        reply = await self._place.run(_stub, lambda stub: stub.Forget(request, timeout=MARGIN))
        return int(reply.messages)

    async def close(self) -> None:
        """(primitives.topic.Topic)"""
        await self._place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Subscription:
    """(primitives.topic.Subscription) One task at a time waits for the next message. A task that is cancelled while it
    waits takes nothing."""

    def __init__(self, place: LoopPlace, flow: Flow) -> None:
        self._place = place
        self._flow = flow
        self._closed = False
        self._ending = asyncio.Event()
        self._turn = asyncio.Lock()
        self._call: Any = None
        self._reading: asyncio.Task[Any] | None = None

    @property
    def missed(self) -> int:
        """How many messages it was not given."""
        return self._flow.missed

    @property
    def gap(self) -> bool:
        """There may have been more."""
        return self._flow.gap

    async def start(self) -> None:
        """Listens."""
        await self._begin(again=False)

    async def receive(self, wait: float | None = None) -> Message:
        """(primitives.topic.Subscription)"""
        loop = asyncio.get_running_loop()
        end = None if wait is None else loop.time() + wait
        async with self._turn:
            while not self._closed:
                try:
                    message = await self._next(end)
                except grpc.RpcError as error:
                    await self._again(error, end)
                    continue
                if message is not None:
                    return message
                if wait is not None and wait <= 0:
                    raise Empty(f"no message of {self._place.text} is there")
                raise TimedOut(f"no message of {self._place.text} came within {wait} s")
        raise Lost(f"the subscription of {self._place.text} is closed")

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                yield await self.receive()
            except Lost:
                return

    async def _next(self, end: float | None) -> Message | None:
        if self._call is None:
            await self._begin(again=True)
        loop = asyncio.get_running_loop()
        request = self._flow.credit() if end is None else self._flow.poll(end - loop.time())
        if request is not None:
            await self._ask(request)
        while True:
            # A read that is under way belongs to the subscription, not to whoever waits for it.
            if self._reading is None:
                self._reading = loop.create_task(_read(self._call))
            await asyncio.wait({self._reading})
            reading, self._reading = self._reading, None
            delivery = reading.result()
            message = self._flow.take(delivery)
            if message is not None:
                return message
            if end is not None and self._flow.ended(delivery):
                return None

    async def _ask(self, request: topic_pb2.TopicSubscribeRequest) -> None:
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:
            pass  # the call is over: reading says why

    async def _begin(self, *, again: bool) -> None:
        first = self._flow.first(again=again)

        async def act(stub: Any) -> Any:
            call = stub.Subscribe()
            try:
                await call.write(first)
                await _read(call)
            except BaseException:
                call.cancel()
                raise
            return call

        self._call = await self._place.run(_stub, act)
        if self._closed:
            self._call.cancel()

    async def _again(self, error: Any, end: float | None) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        wait, longest = topics.AGAIN
        failure: Exception = from_status(error.code(), error.details() or "")
        cause: grpc.RpcError = error
        while not self._closed:
            left = None if end is None else end - asyncio.get_running_loop().time()
            if cause.code() is not grpc.StatusCode.UNAVAILABLE or (left is not None and left <= 0):
                raise failure from cause
            try:
                await self._begin(again=True)
                return
            except Exception as new:
                if not isinstance(new.__cause__, grpc.RpcError):
                    raise
                failure, cause = new, new.__cause__
            try:
                async with asyncio.timeout(wait if left is None else min(wait, left)):
                    await self._ending.wait()
            except TimeoutError:
                wait = min(longest, 2 * wait)

    async def close(self) -> None:
        """Listens no more. Whoever waits for a message hears of it."""
        self._closed = True
        self._ending.set()
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _read(call: Any) -> topic_pb2.TopicDelivery:
    try:
        delivery: Any = await call.read()
    except asyncio.CancelledError:
        # Of the call, which its owner closes; a task that is cancelled itself ends so too.
        if not call.done() or not call.cancelled():
            raise
        raise _Ended(grpc.StatusCode.CANCELLED, "the subscription is closed") from None
    if delivery is EOF:
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise _Ended(code, await call.details())
        raise _Ended(grpc.StatusCode.UNAVAILABLE, "the node has ended the subscription")
    assert isinstance(delivery, topic_pb2.TopicDelivery)
    return delivery


class _Ended(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


_stub: Final = topic_pb2_grpc.TopicStub


def topic(subject: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> Topic:
    """A topic, for the running loop. (primitives.topic.topic)"""
    return Topic(LoopPlace(subjects.KIND, subject, node, channel))
