"""This node's ends of `Topic.Link`: what its subscribers want of other nodes, one stream for each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import grpc
from grpc.aio import EOF
from ipcd_client import aio
from ipcd_client.errors import IpcdError
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.place import OPTIONS, target_of
from ipcd_client.primitives.subjects import REST

from ipcd import limits
from ipcd.primitives.host import Keeper
from ipcd.primitives.topic_outlets import REASON, Outlets
from ipcd.primitives.topic_wakers import Wakers
from ipcd.state.quota import Key
from ipcd.state.subscription import Interest, Pending
from ipcd.state.topic import Board

# Seconds: from the first try to the longest time between two; for other nodes to know of a subscription, and to say
# what they keep.
BACKOFF: Final = (0.1, 5.0)
SETTLE: Final = 2.0
ASK: Final = 2.0
# Parcels after which the other node is told that they have come.
RECEIPT: Final = 256
# Acks beyond which no more is read before some are sent.
ACKS: Final = 4096
# Wants in one request.
WANTS: Final = 256

R = TypeVar("R")


class Links:
    """To all nodes that can be seen. Without subscribers here, there are no calls."""

    def __init__(self, keeper: Keeper, board: Board, wakers: Wakers, outlets: Outlets) -> None:
        self.keeper = keeper
        self.outlets = outlets
        self.board = board
        self.wakers = wakers
        self.session = secrets.token_bytes(16)
        self.news = Waiters()  # some link has got further
        self._links: dict[str, Link] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follows the nodes that come and go."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Ends all."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for link in self._links.values():
            await link.stop()

    async def _watch(self) -> None:
        while True:
            # Nobody waits for news meanwhile: a node may have come or gone.
            if await self._look() == self._names():
                await self.keeper.broker.changed.wait()

    def _names(self) -> set[str]:
        return set(self.keeper.broker.links.names())

    async def _look(self) -> set[str]:
        """Begins with nodes that can be seen, and stops with others. Those that it went by."""
        linked = self._names()
        self.outlets.look(linked)
        away = [link for node, link in self._links.items() if node not in linked]
        for node in linked:
            known = self._links.get(node)
            if known is None:
                if len(self._links) >= limits.NODES:
                    # One that is away; what it has not told is not counted.
                    gone = next((name for name in self._links if name not in linked), None)
                    if gone is None:
                        continue
                    del self._links[gone]
                known = self._links[node] = Link(self, node)
            if self.board.interests:
                known.begin()
        for link in away:
            # It may have come back while another was stopped.
            if link is not self._links.get(link.node) or link.node not in self._names():
                await link.stop()
        return linked

    def changed(self, interests: Iterable[Interest]) -> None:
        """(Tellable)"""
        for interest in interests:
            for link in self._links.values():
                link.tell(interest)

    def _linked(self) -> list[Link]:
        names = self._names()
        return [link for node, link in self._links.items() if node in names]

    async def settled(self, interest: int) -> None:
        """Until all nodes that can be reached know of it."""
        await self._look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while any(link.owes(interest) for link in self._linked()):
                    await self.news.wait()

    async def forget(self, pattern: str, identities: Sequence[str]) -> int:
        """Has other nodes keep nothing of these; how many messages these were."""
        request = topic_pb2.TopicForgetRequest(name=pattern, here=True, identity=identities)

        async def ask(link: Link) -> int:
            reply = await link.stub().Forget(request, timeout=ASK)
            return int(reply.messages)

        return sum(await self.ask(ask))

    async def ask(self, ask: Callable[[Link], Awaitable[R]]) -> list[R]:
        """Asks all nodes that can be reached; the answers of those that give one."""
        await self._look()

        async def one(link: Link) -> list[R]:
            try:
                return [await ask(link)]
            except (grpc.RpcError, IpcdError) as error:
                reason = _reason(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                if task.cancelling():
                    raise
                # The call was, by `stop`, and not this task.
                reason = "it cannot be seen any more"
            except Exception as error:  # noqa: BLE001  whatever one node says, it is not the others that fail
                reason = f"{type(error).__name__}: {error}"
            self.keeper.log.debug("a node was not asked for topics", peer=link.node, reason=reason)
            return []

        # However this ends, none goes on to ask.
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(link)) for link in self._linked()]
        return [answer for task in asked for answer in task.result()]


class Link:
    """To one node. It is kept while that is away, to know what it has told before."""

    def __init__(self, links: Links, node: str) -> None:
        self.node = node
        self._links = links
        self._owner = (Key("node", node),)
        self._channel: aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._failed = False  # the last try
        self._received = 0
        self._told_received = 0
        self._serial = 0
        self._stale: dict[int, Interest] = {}  # to be told
        self._told: dict[int, int] = {}  # not confirmed, and the serial that does
        self._in_force: set[int] = set()
        self._known: set[int] = set()  # were in force before
        self._linked = False
        self._acks: list[topic_pb2.TopicAck] = []
        self._pending: dict[int, Pending] = {}
        self._news = Waiters()
        self._sent = Waiters()  # no more acks wait

    @property
    def running(self) -> bool:
        """The node can be seen, and something is wanted of it."""
        return self._task is not None

    def stub(self) -> Any:
        """For calls there."""
        if self._channel is None:
            self._channel = aio.channel(target_of(self.node), node=self._links.keeper.socket, options=OPTIONS)
        return topic_pb2_grpc.TopicStub(self._channel)

    def begin(self) -> None:
        """Something is wanted of the node."""
        if self._task is None:
            self._failed = False
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """The node cannot be seen any more."""
        # Both at once: if the node is back meanwhile, that begins with a channel of its own.
        task, self._task = self._task, None
        channel, self._channel = self._channel, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        finally:
            if channel is not None:
                await channel.close()

    def tell(self, interest: Interest) -> None:
        """It has come, gone or changed."""
        self._stale[interest.id] = interest
        self._news.progressed()

    def owes(self, interest: int) -> bool:
        """The node has not confirmed it, and may still."""
        if self._failed or self._task is None:
            return False
        return interest in self._stale or interest in self._told or interest not in self._in_force

    async def _run(self) -> None:
        wait, longest = BACKOFF
        while True:
            try:
                await self._link()
                reason = "it ended the call"
            except (grpc.RpcError, IpcdError) as error:
                reason = _reason(error)
            except Exception as error:  # noqa: BLE001  whatever a node says ends one call, and not the next ones
                reason = f"{type(error).__name__}: {error}"
                self._links.keeper.log.error("a link of topics failed", peer=self.node, reason=reason[:REASON])
            if self._linked:
                wait, self._linked = BACKOFF[0], False
            self._ended()
            self._links.keeper.log.debug("topics of a node are not heard", peer=self.node, reason=reason)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(longest, 2 * wait)

    def _ended(self) -> None:
        self._failed = True
        self._links.news.progressed()

    async def _link(self) -> None:
        links, board = self._links, self._links.board
        call = self.stub().Link()
        try:
            self._told.clear()
            self._in_force.clear()
            self._acks.clear()
            # Nobody waits for those that were under way.
            self._drop_pending()
            self._stale = dict(board.interests)
            first = topic_pb2.TopicLinkRequest(name=REST, session=links.session, received=self._received)
            self._told_received = self._received
            await self._tell_all(call, first)
            reply = await call.read()
            if reply is EOF:
                return
            if not reply.resumed:
                self._received = self._told_received = 0
                # It was started again, or has forgotten us.
                board.gap(self._known)
                self._known.clear()
                links.wakers.tell()
            self._failed = False
            self._linked = True
            board.forgive(self.node)
            writing = asyncio.get_running_loop().create_task(self._write(call))
            writing.add_done_callback(lambda _: self._sent.progressed())
            try:
                while reply is not EOF:
                    self._take(reply)
                    while len(self._acks) > ACKS and not writing.done():
                        await self._sent.wait()
                    reply = await call.read()
            finally:
                writing.cancel()
                await asyncio.wait({writing})
            # What the other end had against it.
            code = await call.code()
            if code is not grpc.StatusCode.OK:
                links.keeper.log.debug("a link of topics ended", peer=self.node, reason=await call.details())
        finally:
            call.cancel()
            self._known = {one for one in self._known | self._in_force if one in board.interests}
            self._drop_pending()

    def _drop_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for one in pending.values():
            if one.left:
                self._links.board.give_up(one)
        self._links.wakers.tell()

    async def _tell_all(self, call: Any, request: topic_pb2.TopicLinkRequest) -> None:
        """All that is wanted, in as many requests as it takes: together they may be more than one message can be."""
        while True:
            request.more = len(self._stale) > WANTS
            await call.write(self._filled(request, WANTS))
            if not request.more:
                return
            request = topic_pb2.TopicLinkRequest(name=REST)

    def _filled(self, request: topic_pb2.TopicLinkRequest, most: int) -> topic_pb2.TopicLinkRequest:
        """With what is to be told."""
        self._serial += 1
        request.serial = self._serial
        for number in list(self._stale)[:most]:
            want = self._stale.pop(number).shown()
            self._told[number] = self._serial
            request.wants.append(want)
        return request

    async def _write(self, call: Any) -> None:
        while True:
            self._look_at_pending()
            due = self._received - self._told_received >= RECEIPT
            if not (self._stale or self._acks or due):
                await self._news.wait()
                continue
            request = topic_pb2.TopicLinkRequest(name=REST, acks=self._acks, received=self._received)
            self._acks.clear()
            self._told_received = self._received
            self._sent.progressed()
            try:
                await call.write(self._filled(request, WANTS))
            except (grpc.RpcError, asyncio.InvalidStateError):
                return  # whoever reads hears why

    def _take(self, reply: topic_pb2.TopicLinkReply) -> None:
        links, board = self._links, self._links.board
        if reply.confirmed:
            for number, serial in list(self._told.items()):
                if serial <= reply.confirmed:
                    del self._told[number]
                    if number in board.interests:
                        self._in_force.add(number)
                    else:
                        self._in_force.discard(number)
            links.news.progressed()
        for refused in reply.refused:
            interest = board.interests.get(refused.id)
            if interest is not None and self.node not in interest.refused:
                interest.refused[self.node] = refused.why[:REASON]
                links.keeper.log.info(
                    "a node refuses a topic", peer=self.node, pattern=interest.pattern, reason=refused.why[:REASON]
                )
        board.missed({missed.id: missed.count for missed in reply.missed})
        for parcel in reply.parcels:
            self._arrived(parcel)
        for number in reply.given_up:
            pending = self._pending.pop(number, None)
            if pending is not None and pending.left:
                board.give_up(pending)
        links.wakers.tell()
        self._look_at_pending()
        if self._received - self._told_received >= RECEIPT:
            self._news.progressed()

    def _arrived(self, parcel: topic_pb2.TopicParcel) -> None:
        self._received += 1
        try:
            if parcel.number:
                self._check_number(parcel.number)
            pending = self._links.board.arrived(self.node, parcel, self._owner)
        except (limits.LimitReached, BadRequest) as error:
            subject = parcel.message.subject[: naming.MOST]
            self._links.keeper.log.warning("a message is lost", peer=self.node, subject=subject, reason=error)
            if parcel.number:
                self._acks.append(topic_pb2.TopicAck(number=parcel.number))
            return
        if parcel.number:
            self._pending[parcel.number] = pending
            self._links.wakers.call(pending, self._news)

    def _check_number(self, number: int) -> None:
        if number in self._pending:
            raise BadRequest(f"a message is under way that has the number {number}, too")
        limits.check("publishers of one node that wait", len(self._pending) + 1, limits.TOPIC_LINK_WAITING)

    def _look_at_pending(self) -> None:
        """Tells the other node of messages that all have got."""
        for number, pending in list(self._pending.items()):
            if not pending.left:
                del self._pending[number]
                self._acks.append(topic_pb2.TopicAck(number=number, full=pending.full))
                self._news.progressed()


def _reason(error: Any) -> str:
    if isinstance(error, grpc.RpcError):
        call: Any = error
        return f"{call.code().name}: {call.details()}"
    return str(error)
