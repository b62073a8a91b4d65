"""`ipcd.v1.Topic`: publish and subscribe, for the processes of this node and of clients of gateways."""

# ruff: noqa: N802, ARG002 - the methods are named as in the .proto

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Final

from grpc.aio import EOF
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import node_pb2, topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import naming, subjects
from ipcd_client.primitives.errors import BadRequest, Elsewhere, Full, TimedOut
from ipcd_client.primitives.subjects import KIND
from ipcd_client.primitives.topics import LEFT_OUT
from ipcd_client.primitives.waiting import checked, first_request, wait_of

from ipcd import limits
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper, Who
from ipcd.primitives.topic_kept import Replays
from ipcd.primitives.topic_links import Links
from ipcd.primitives.topic_memory import Memories, Reference
from ipcd.primitives.topic_outlets import Outlets
from ipcd.primitives.topic_wakers import Wakers
from ipcd.state.quota import Owner
from ipcd.state.replay import PIECE, Replay
from ipcd.state.subscription import Message, Pending, Subscription
from ipcd.state.topic import Board

# Messages that are sent at most without credit. The transport has bounds of its own.
ALL: Final = 1 << 62
# As many as fit in a reply.
COUNT_MOST: Final = (1 << 32) - 1


class TopicServicer(topic_pb2_grpc.TopicServicer):
    """Of one node. `wall`: seconds since the epoch."""

    def __init__(self, keeper: Keeper, wall: Callable[[], float] = time.time) -> None:
        self._keeper = keeper
        self._wall = wall
        self._board = Board(keeper.node)
        self.memories = Memories(keeper.broker.quotas)
        self._wakers = Wakers(self._board, self.memories)
        self._outlets = Outlets(keeper, self._board, self._wakers)
        self._links = Links(keeper, self._board, self._wakers, self._outlets)
        self._wakers.links = self._links
        self._replays = Replays(keeper, self._board, self._links)
        self._callers: dict[Subscription, node_pb2.Process] = {}

    async def start(self) -> None:
        """Looks after the links with other nodes."""
        self._links.start()

    async def close(self) -> None:
        """Ends them."""
        await self._links.close()
        self._outlets.close()
        self.memories.close()

    def _here(self, text: str) -> str:
        """A pattern without the node, which is this one.

        Raises:
            BadRequest: it is none.
            Elsewhere: another node is meant.
        """
        _, node = naming.parse(KIND, text)
        if node not in {"", self._keeper.node}:
            raise Elsewhere(node)
        return subjects.pattern(text)

    # -- publishing -------------------------------------------------------------------------------

    async def Publish(
        self, request: topic_pb2.TopicPublishRequest, context: CalledContext
    ) -> topic_pb2.TopicPublishReply:
        """Gives a message to all."""
        self._here(request.name)
        self._keeper.check(context, PUBLISH, KIND, subjects.subject(request.name))
        wait = wait_of(request)
        pending = self._board.publish(request, self._keeper.owner(context), self._wall(), wait=wait != 0)
        self._wakers.tell()
        if pending.left:
            await self._given(pending, wait)
        if pending.full:
            text = f"{pending.full} of the subscribers of {pending.message.subject} had no room; all others have it"
            raise Full(text) if wait == 0 else TimedOut(text)
        return topic_pb2.TopicPublishReply(
            subscribers=pending.reached, nodes=pending.nodes, sequence=pending.message.sequence
        )

    async def _given(self, pending: Pending, wait: float | None) -> None:
        """Until nobody has to be waited for, or the time is over."""
        try:
            async with asyncio.timeout(wait):
                with self._wakers.of(pending) as news:
                    while pending.left:
                        await news.wait()
        except TimeoutError:
            pass
        finally:
            # Also where the publisher has gone meanwhile.
            if pending.left:
                self._board.give_up(pending)
                self._wakers.tell()

    # -- subscribing ------------------------------------------------------------------------------

    async def Subscribe(self, requests: AsyncIterator[Any], context: CalledContext) -> None:
        """Listens until the call ends."""
        first = await first_request(context)
        pattern = self._here(first.name)
        self._keeper.check(context, READ, KIND, pattern)
        who = self._keeper.who(context)
        may = partial(self._keeper.may_who, who, READ, KIND) if subjects.is_wild(pattern) else None
        owner, caller = self._keeper.owner(context), self._keeper.caller(context)
        maps = first.maps and caller.node == self._keeper.node and not who.called_for
        subscription = self._board.subscribe(first, owner, who.all, may, maps=maps)
        self._callers[subscription] = caller
        try:
            self._wakers.tell()
            with (
                self._wakers.of(subscription) as news,
                contextlib.closing(await self._before(subscription, first.replay, who, owner)) as kept,
            ):
                stream = _Stream(context, first, news, self._board, self._wakers, self.memories)
                await stream.run(subscription, kept)
        finally:
            del self._callers[subscription]
            self._board.unsubscribe(subscription)
            self._wakers.tell()

    async def _before(self, subscription: Subscription, most: int, who: Who, owner: Owner) -> Replay:
        """What was kept, once other nodes know that somebody listens."""
        # What is published here from now on waits for the subscriber.
        until = self._board.published
        await self._links.settled(subscription.interest.id)
        if not most:
            return self._replays.none(owner)
        return await self._replays.gathered(subscription.pattern, most, who, owner, until=until, here=False)

    async def Fetch(self, request: topic_pb2.TopicMemoryRequest, context: CalledContext) -> topic_pb2.TopicFetchReply:
        """The data of a delivery whose reference is of no use to the subscriber."""
        self._here(request.name)
        reference = self.memories.find(request.memory, self._keeper.owner(context))
        return topic_pb2.TopicFetchReply(data=reference.message.data)

    # -- what is kept -----------------------------------------------------------------------------

    async def Replay(
        self, request: topic_pb2.TopicReplayRequest, context: CalledContext
    ) -> AsyncIterator[topic_pb2.TopicMessage]:
        """What is kept."""
        pattern = self._here(request.name)
        who = self._asking(context, request)
        self._keeper.check_who(who, READ, KIND, pattern)
        owner = self._keeper.owner(context)
        with contextlib.closing(
            await self._replays.gathered(pattern, request.most, who, owner, here=request.here)
        ) as kept:
            while len(kept):
                await _turn(kept)
                message = kept.next()
                if message is not None:
                    yield message.shown()
            if kept.cut or kept.gone:
                context.set_trailing_metadata(((LEFT_OUT, "yes"),))

    async def Forget(self, request: topic_pb2.TopicForgetRequest, context: CalledContext) -> topic_pb2.TopicForgetReply:
        """Keeps nothing of these any more."""
        pattern = self._here(request.name)
        who = self._asking(context, request)
        self._keeper.check_who(who, MAKE, KIND, pattern)
        count = await self._replays.forget(pattern, who)
        if not request.here:
            count += await self._links.forget(pattern, who.all)
        return topic_pb2.TopicForgetReply(messages=min(count, COUNT_MOST))

    def _asking(
        self, context: CalledContext, request: topic_pb2.TopicReplayRequest | topic_pb2.TopicForgetRequest
    ) -> Who:
        """For whom: another node's daemon says it.

        Raises:
            BadRequest: it says it, and asks of other nodes, or is none.
        """
        if not request.identity:
            return self._keeper.who(context)
        if not request.here:
            raise BadRequest("for others, a node asks of what is here alone")
        asker = self._outlets.asking(context, "for others, only other nodes' daemons ask")
        return self._outlets.on_behalf(asker, request.identity)

    async def List(self, request: topic_pb2.TopicListRequest, context: CalledContext) -> topic_pb2.TopicListReply:
        """What there is on this node."""
        pattern = self._here(request.name)
        may = partial(self._keeper.may, context, READ, KIND)
        shown = [
            self._shown(one)
            for one in self._board.subscriptions
            if (pattern in {one.pattern, subjects.REST} or subjects.matches(pattern, one.pattern)) and may(one.pattern)
        ]
        kept = [
            topic_pb2.TopicKeptInfo(subject=subject, messages=count, bytes=size, time=last)
            for subject, count, size, last in self._board.kept.subjects(pattern)
            if may(subject)
        ]
        return topic_pb2.TopicListReply(
            node=self._keeper.node,
            subscriptions=shown,
            kept=kept,
            published=self._board.published,
            sent=self._board.sent,
        )

    def _shown(self, one: Subscription) -> topic_pb2.TopicSubscriptionInfo:
        caller = self._callers.get(one, node_pb2.Process())
        return topic_pb2.TopicSubscriptionInfo(
            pattern=one.pattern,
            group=one.group,
            policy=one.policy,
            pid=caller.pid,
            uid=caller.uid,
            node=caller.node,
            waiting=one.waiting,
            waiting_bytes=one.size,
            delivered=one.delivered,
            dropped=one.dropped,
            blocked=len(one.blocked),
        )

    async def Link(self, requests: AsyncIterator[Any], context: CalledContext) -> None:
        """Another node wants what is published here."""
        await self._outlets.serve(context)


class _Stream:
    """What one subscriber is sent, at its pace."""

    def __init__(
        self,
        context: CalledContext,
        first: topic_pb2.TopicSubscribeRequest,
        news: Waiters,
        board: Board,
        wakers: Wakers,
        memories: Memories,
    ) -> None:
        self._context = context
        self._memories = memories
        self._references: dict[bytes, Reference] = {}  # sent, and not used yet
        self._credit = first.credit or ALL
        self._news = news
        self._board = board
        self._wakers = wakers
        self._poll: tuple[int, float] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._polled(first)

    async def run(self, subscription: Subscription, kept: Replay) -> None:
        reading = self._reading = self._loop.create_task(self._read())
        reading.add_done_callback(lambda _: self._news.progressed())
        try:
            await self._context.write(topic_pb2.TopicDelivery())
            while len(kept):
                await _turn(kept)
                await self._allowed()
                message = kept.next()
                if message is not None:
                    # What other nodes published while those were gathered may wait, too: it comes once.
                    if message.node != self._board.node:
                        kept.seen.add(message)
                    await self._send(subscription, topic_pb2.TopicDelivery(message=message.shown(), replayed=True))
            if kept.gone or kept.cut:
                await self._send(subscription, topic_pb2.TopicDelivery(missed=kept.gone, gap=kept.cut))
            while True:
                await self._allowed()
                taken = self._board.take(subscription)
                if taken is None:
                    self._wakers.tell()
                    await self._wait()
                    continue
                next_, missed, gap = taken
                if gap:
                    # A node may have begun anew, maybe with a clock that is behind.
                    kept.seen.close()
                delivery = topic_pb2.TopicDelivery(missed=missed, gap=gap)
                if next_ is not None and not kept.seen.again(next_):
                    self._fill(delivery, next_, subscription)
                # Only now: what nobody waits for and nobody refers to is forgotten.
                self._wakers.tell()
                if not missed and not gap and not delivery.HasField("message"):
                    continue
                await self._send(subscription, delivery)
        finally:
            self._done(list(self._references))
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    def _fill(self, delivery: topic_pb2.TopicDelivery, message: Message, subscription: Subscription) -> None:
        """With the message, or with a reference to its data."""
        reference = self._memories.refer(message, subscription.owner) if subscription.maps else None
        delivery.message.CopyFrom(message.shown(data=reference is None))
        if reference is not None:
            # It is in memory, and counts, for as long as it may be fetched.
            self._board.hold(message)
            self._references[reference.id] = reference
            delivery.memory, delivery.size = reference.id, len(message.data)

    def _done(self, ids: Iterable[bytes]) -> None:
        for each in ids:
            reference = self._references.pop(each, None)
            if reference is not None:
                self._memories.done(reference)
                self._board.release(reference.message)
        self._wakers.tell()

    async def _send(self, subscription: Subscription, delivery: topic_pb2.TopicDelivery) -> None:
        if delivery.HasField("message"):
            self._credit -= 1
            self._poll = None
        # What waits besides goes in the same write.
        more = subscription.waiting > 0 and self._credit > 0
        await self._context.send(delivery.SerializeToString(), more=more)

    async def _allowed(self) -> None:
        """Until the subscriber takes more. Of those who do not use what they have references to nothing more is taken
        from the queue, where their policy holds."""
        while self._credit <= 0 or len(self._references) >= limits.TOPIC_REFERENCES:
            await self._wait()

    async def _wait(self) -> None:
        """Until there is news, or the time of a poll is over, which is then answered."""
        poll = self._poll
        if self._reading is not None and self._reading.done():
            self._reading.result()  # what was wrong with a request, if anything was
        try:
            async with asyncio.timeout_at(poll[1] if poll is not None else None):
                await self._news.wait()
        except TimeoutError:
            assert poll is not None
            if self._poll == poll:
                self._poll = None
                await self._context.write(topic_pb2.TopicDelivery(poll=poll[0]))

    async def _read(self) -> None:
        while (request := await self._context.read()) is not EOF:
            self._credit += request.credit
            self._done(request.done)
            self._polled(request)
            self._news.progressed()

    def _polled(self, request: topic_pb2.TopicSubscribeRequest) -> None:
        if request.poll:
            checked(request.wait)
            self._poll = (request.poll, self._loop.time() + request.wait)


async def _turn(kept: Replay) -> None:
    """Lets others go on, each time that one piece of it has been told: there may be room for all of it."""
    if len(kept) % PIECE == 0:
        await asyncio.sleep(0)


def add(keeper: Keeper, server: Dispatcher) -> TopicServicer:
    """(host.Adds)"""
    servicer = TopicServicer(keeper)
    topic_pb2_grpc.add_TopicServicer_to_server(servicer, server)
    topic_pb2_grpc.add_TopicMemoryServicer_to_server(servicer.memories, keeper.api)
    return servicer
