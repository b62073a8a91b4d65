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

from ipcd_client.errors import IpcdError
from ipcd_client.node import loop_attach
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import subjects, topic_memory, topics
from ipcd_client.primitives.errors import Empty, Lost, TimedOut, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.topics import Data, Flow, Message, Policy, Published, Wish
from ipcd_client.primitives.waiting import (
    MARGIN,
    Unanswered,
    deadline_of,
    ends_at,
    late,
    left_until,
    loop_answer,
    loop_first,
)


class Topic:
    """(primitives.topic.Topic)"""

    def __init__(self, place: LoopPlace, *, maps: bool = False) -> None:
        self._place = place
        self._maps = maps
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
        subscription = Subscription(self._place, Flow(self._place.text, wish, maps=self._maps))
        await subscription.start()
        return subscription

    async def last(self, most: int = 1) -> list[Message]:
        """(primitives.topic.Topic)"""
        request = topic_pb2.TopicReplayRequest(name=self._place.text, most=most)

        async def act(stub: Any) -> list[Message]:
            call = stub.Replay(request, timeout=deadline_of(0))
            return topics.last([message async for message in call], await call.trailing_metadata())

        return await self._place.run(_stub, act)

    async def forget(self) -> int:
        """(primitives.topic.Topic)"""
        request = topic_pb2.TopicForgetRequest(name=self._place.text)
        reply = await self._place.run(_stub, lambda stub: stub.Forget(request, timeout=deadline_of(0)))
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
        end = ends_at(wait)
        async with self._turn:
            while not self._closed:
                try:
                    message = await self._next(end)
                except grpc.RpcError as error:
                    await self._again(error, end)
                    continue
                if message is not None:
                    return message
                if wait == 0:
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
            await self._ask(self._call, request)
        while True:
            # A read that is under way belongs to the subscription, not to whoever waits for it.
            if self._reading is None:
                self._reading = loop.create_task(self._read(self._call))
            reading = self._reading
            seconds = deadline_of(left_until(end))
            if not (await asyncio.wait({reading}, timeout=seconds))[0]:
                assert seconds is not None
                await self._given_up()
                raise late(seconds)
            self._reading = None
            delivery, data = reading.result()
            message = self._flow.take(delivery, data)
            if message is not None:
                return message
            if end is not None and self._flow.ended(delivery):
                return None

    async def _read(self, call: Any) -> tuple[topic_pb2.TopicDelivery, Data | None]:
        """A delivery, and what its reference stands for, if it has one."""
        delivery = await _read(call)
        if not delivery.memory:
            return delivery, None
        data = await self._data(delivery)
        try:
            await self._ask(call, self._flow.done(delivery))
        except asyncio.CancelledError:
            # Of the call, which its owner closes: what has come has come.
            if not call.cancelled():
                raise
        return delivery, data

    async def _data(self, delivery: topic_pb2.TopicDelivery) -> Data | None:
        """(primitives.topic.Subscription)"""
        request = self._flow.wanted(delivery)
        try:
            topic_memory.check_room()
            attachment = loop_attach.hold(self._place.path)
            try:
                connection = await attachment.connection()
                _, fds = await connection.call(topic_memory.MAP, request.SerializeToString(), timeout=MARGIN)
            finally:
                loop_attach.release(attachment)
            return topic_memory.data(delivery.size, fds)
        except (IpcdError, OSError):
            pass
        try:
            reply = await self._place.run(_stub, lambda stub: stub.Fetch(request, timeout=MARGIN))
        except IpcdError:
            return None
        data: bytes = reply.data
        return data

    async def _ask(self, call: Any, request: topic_pb2.TopicSubscribeRequest) -> None:
        try:
            await call.write(request)
        except (asyncio.InvalidStateError, grpc.RpcError):
            pass  # the call is over: reading says why

    async def _begin(self, *, again: bool) -> None:
        first = self._flow.first(again=again)

        async def act(stub: Any) -> Any:
            call = stub.Subscribe()
            await loop_first(call, 0, first)
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
            left = left_until(end)
            if cause.code() not in topics.AWAY or left == 0:
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
        await self._given_up()

    async def _given_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
        # Whoever waits for a message may take it meanwhile.
        reading = self._reading
        if reading is not None:
            await asyncio.wait({reading})
            failed = reading.cancelled() or reading.exception() is not None
            if failed and self._reading is reading:
                # With its call. What has come stays for the next who waits.
                self._reading = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _read(call: Any) -> topic_pb2.TopicDelivery:
    delivery: topic_pb2.TopicDelivery | None = await loop_answer(call, None)
    if delivery is None:
        raise Unanswered(grpc.StatusCode.UNAVAILABLE, "the node has ended the subscription")
    return delivery


_stub: Final = topic_pb2_grpc.TopicStub


def topic(subject: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> Topic:
    """A topic, for the running loop. (primitives.topic.topic)"""
    return Topic(LoopPlace(subjects.KIND, subject, node, channel), maps=channel is None)
