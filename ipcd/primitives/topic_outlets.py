"""Other nodes' ends of `Topic.Link`: what is published here goes there, once for each node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

import grpc
from grpc.aio import EOF
from ipcd_client.access import identity as ids
from ipcd_client.aio.serving import CalledContext
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives import subjects
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.subjects import KIND
from ipcd_client.primitives.waiting import first_request

from ipcd import limits
from ipcd.primitives.host import READ, Keeper, Who
from ipcd.primitives.topic_wakers import Wakers
from ipcd.state.outlet import Outlet, Want, check_wants
from ipcd.state.topic import Board

# Of one reply: parcels, and about so many bytes of them.
PARCELS: Final = 64
BYTES: Final = 256 << 10
SESSION_MOST: Final = 64
# For whom one request may be: a process, and those for whom it says that it calls.
IDENTITIES: Final = 16
# Wants that are refused, beyond which no more is read before that is told; of one reply, as many. Characters of why.
REFUSED: Final = 1024
REASON: Final = 256
# Seconds for a node to say all that it wants.
WHOLE: Final = 60.0

# Who asks, and in which session: a daemon that was started again has another one.
Key = tuple[str, bytes]


class _Held:
    """An outlet, who serves it now, and when it is forgotten if nobody does."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.outlet = Outlet()
        self.begun = False  # the node was told so
        self.task: asyncio.Task[object] | None = None
        self.context: CalledContext | None = None
        self.forgetting: asyncio.TimerHandle | None = None
        # What the next reply tells beside parcels.
        self.confirmed = 0
        self.refused: list[topic_pb2.TopicRefused] = []
        self.told = Waiters()  # all of this has been


class Outlets:
    """Of one node, one for each other node, also while that is away for a while."""

    def __init__(self, keeper: Keeper, board: Board, wakers: Wakers) -> None:
        self._keeper = keeper
        self._board = board
        self._wakers = wakers
        self._held: dict[Key, _Held] = {}

    def close(self) -> None:
        """The node stops."""
        for held in self._held.values():
            if held.forgetting is not None:
                held.forgetting.cancel()

    def look(self, linked: Collection[str]) -> None:
        """Waits for none of the nodes that cannot be seen any more: their connections may take long to end."""
        for held in list(self._held.values()):
            if held.node not in linked and held.context is not None:
                why = f"node {held.node} is not linked any more"
                held.context.give_up(grpc.StatusCode.UNAVAILABLE, why, why)

    def asking(self, context: CalledContext, only: str) -> Who:
        """Who calls, which has to be another node's daemon. `only`: that this is so, in words.

        Raises:
            BadRequest: it is not.
        """
        who = self._keeper.who(context)
        if who.node == self._keeper.node or who.called_for or not self._keeper.caller(context).daemon:
            raise BadRequest(only)
        return who

    @staticmethod
    def on_behalf(who: Who, identities: Sequence[str]) -> Who:
        """Another node's daemon asks for somebody, who may be asking for others. All have to be let, and the daemon
        too; for clients of its gateway it is enough that we do not deny it.

        Raises:
            BadRequest: it names nobody, or too many.
        """
        if not 0 < len(identities) <= IDENTITIES:
            raise BadRequest(f"a node asks for 1 to {IDENTITIES} identities, not {len(identities)}")
        try:
            for identity in identities:
                ids.parsed(identity)
        except IpcdError as error:
            raise BadRequest(str(error)) from error
        return Who(who.identity, tuple(identities), who.node)

    async def serve(self, context: CalledContext) -> None:
        """One call, from its begin to its end."""
        who = self.asking(context, "Link is for other nodes' daemons")
        first = await first_request(context)
        if not first.session or len(first.session) > SESSION_MOST:
            raise BadRequest("the first request of a link has no session")
        key = (who.identity, bytes(first.session))
        held = self._held.get(key)
        if held is None:
            self._check_sessions(who)
            held = self._held[key] = _Held(who.node)
        outlet = held.outlet
        # From now on it is this call's: nobody else takes it for one that is away.
        before, held.task, held.context = held.task, asyncio.current_task(), context
        try:
            await self._take_over(held, before)
            wants, serial = await self._whole(context, held, who, first)
            received = first.received
            del first  # its wants may be long
            outlet.back(received if held.begun else 0)
            await context.write(topic_pb2.TopicLinkReply(resumed=held.begun))
            held.begun = True
            # First, those that it wants no more.
            wanted = {want.id for want in wants}
            self._board.want(outlet, [_no_more(outlet, one) for one in outlet.wants if one not in wanted])
            self._board.want(outlet, wants)
            held.confirmed = serial
            self._wakers.tell()
            await self._both(context, held, who)
        finally:
            if held.task is asyncio.current_task():
                held.task = held.context = None
                self._board.away(outlet)
                self._wakers.tell()
                self._forget_later(key, held)

    def _check_sessions(self, who: Who) -> None:
        """Room for one more: those of the same who are away have to make it, then those of the same node."""
        going: list[Key] = []
        for what, most, same in (
            ("links of one node for topics", limits.TOPIC_SESSIONS, lambda key: key[0] == who.identity),
            (
                "links of all users of one node for topics",
                limits.TOPIC_SESSIONS_NODE,
                lambda key: self._held[key].node == who.node,
            ),
        ):
            left = [key for key in self._held if same(key) and key not in going]
            away = [key for key in left if self._held[key].task is None]
            over = max(0, len(left) + 1 - most)
            limits.check(what, most + over - len(away[:over]), most)
            going += away[:over]
        limits.check("nodes that want topics", len(self._held) + 1 - len(going), limits.NODES)
        for key in going:
            self._forget(key)

    async def _take_over(self, held: _Held, before: asyncio.Task[object] | None) -> None:
        """The node has come back, maybe before the end of the call `before` was noticed."""
        if held.forgetting is not None:
            held.forgetting.cancel()
            held.forgetting = None
        if before is not None:
            before.cancel()
            self._board.away(held.outlet)
            self._wakers.tell()
            await asyncio.wait({before}, timeout=1.0)
        # What that one has not told is of its own wants.
        held.confirmed = 0
        held.refused.clear()

    async def _whole(
        self, context: CalledContext, held: _Held, who: Who, first: topic_pb2.TopicLinkRequest
    ) -> tuple[list[Want], int]:
        """All that a node wants, by its first request and those that go on with it, and what confirms it. Each is
        checked as it comes, and not kept."""
        wants: list[Want] = []
        request = first
        try:
            async with asyncio.timeout(WHOLE):
                while True:
                    limits.check("patterns that one node wants", len(wants) + len(request.wants), limits.TOPIC_WANTS)
                    wants += self._wants(held, who, request.wants)
                    check_wants(len(wants), sum(want.identities for want in wants))
                    if not request.more:
                        return wants, request.serial
                    if not request.wants:
                        raise BadRequest("a request without any wants says that there are more of them")
                    request = await first_request(context)
        except TimeoutError:
            raise BadRequest(f"what a node wants was not told within {WHOLE:g} s") from None

    def _forget_later(self, key: Key, held: _Held) -> None:
        away = [one for one, other in self._held.items() if other.task is None]
        while len(away) > limits.TOPIC_AWAY:
            self._forget(away.pop(0))
        if self._held.get(key) is held:
            loop = asyncio.get_running_loop()
            held.forgetting = loop.call_later(limits.TOPIC_REMEMBERED, partial(self._forget, key))

    def _forget(self, key: Key) -> None:
        held = self._held.get(key)
        if held is not None and held.task is None:
            del self._held[key]
            if held.forgetting is not None:
                held.forgetting.cancel()
            self._board.forget(held.outlet)
            self._wakers.tell()

    async def _both(self, context: CalledContext, held: _Held, who: Who) -> None:
        reading = asyncio.get_running_loop().create_task(self._read(context, held, who))
        reading.add_done_callback(lambda _: self._wakers.wake(held.outlet))
        try:
            with self._wakers.of(held.outlet) as news:
                while not reading.done():
                    reply = self._reply(held)
                    if reply.ByteSize():
                        await context.write(reply)
                    else:
                        await news.wait()
            reading.result()
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    async def _read(self, context: CalledContext, held: _Held, who: Who) -> None:
        while (request := await context.read()) is not EOF:
            self._take(held, who, request)
            self._wakers.wake(held.outlet)
            while len(held.refused) >= REFUSED:
                await held.told.wait()

    def _take(self, held: _Held, who: Who, request: topic_pb2.TopicLinkRequest) -> None:
        outlet = held.outlet
        outlet.received(request.received)
        for ack in request.acks:
            self._board.acked(outlet, ack.number, ack.full)
        self._board.want(outlet, self._wants(held, who, request.wants))
        held.confirmed = max(held.confirmed, request.serial)
        self._wakers.tell()

    def _wants(self, held: _Held, who: Who, told: Sequence[topic_pb2.TopicWant]) -> list[Want]:
        limits.check("patterns that one node wants", len(told), limits.TOPIC_WANTS)
        wants = []
        for want in told:
            if not want.members:
                wants.append(_no_more(held.outlet, want.id))
                continue
            try:
                pattern, group = subjects.pattern(want.pattern), subjects.group(want.group)
                behalf = self.on_behalf(who, want.identity)
                self._keeper.check_who(behalf, READ, KIND, pattern)
            except (NotAllowed, BadRequest) as error:
                # The others' wants are as good as ever.
                held.refused.append(topic_pb2.TopicRefused(id=want.id, why=str(error)[:REASON]))
                wants.append(_no_more(held.outlet, want.id))
                continue
            may = partial(self._keeper.may_who, behalf, READ, KIND)
            members = min(want.members, limits.TOPIC_SUBSCRIPTIONS)
            identities = sum(len(identity.encode()) for identity in behalf.called_for)
            wants.append(Want(want.id, pattern, group, members, want.blocking, held.outlet, may, identities))
        return wants

    def _reply(self, held: _Held) -> topic_pb2.TopicLinkReply:
        """What there is to tell; empty if there is nothing."""
        outlet = held.outlet
        reply = topic_pb2.TopicLinkReply(refused=held.refused[:REFUSED], given_up=outlet.given_up)
        del held.refused[:REFUSED]
        reply.missed.extend(topic_pb2.TopicMissed(id=one, count=count) for one, count in outlet.take_missed().items())
        if not held.refused:
            # In force is what was not refused.
            reply.confirmed, held.confirmed = held.confirmed, 0
        held.told.progressed()
        outlet.given_up.clear()
        size = 0
        while len(reply.parcels) < PARCELS and size < BYTES:
            parcel = self._board.next(outlet)
            if parcel is None:
                break
            reply.parcels.append(parcel.shown())
            size += len(parcel.message.data)
        return reply


def _no_more(outlet: Outlet, number: int) -> Want:
    return Want(number, "", "", 0, False, outlet)
