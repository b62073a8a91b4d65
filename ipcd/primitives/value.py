"""`ipcd.v1.Value`: the values that this node keeps."""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from grpc.aio import EOF
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest, Elsewhere, TimedOut
from ipcd_client.primitives.waiting import wait_of

from ipcd import limits
from ipcd.primitives import pieces
from ipcd.primitives.contents import Content, Store, Writing
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper
from ipcd.primitives.news import News
from ipcd.primitives.tickets import Tickets
from ipcd.primitives.value_cache import CacheServicer
from ipcd.state.quota import Shares
from ipcd.state.value import Changed, Gone, Values

KIND: Final = "value"


def add(keeper: Keeper, server: Dispatcher) -> ValueServicer:
    """(host.Adds)"""
    servicer = ValueServicer(keeper)
    value_pb2_grpc.add_ValueServicer_to_server(servicer, server)
    value_pb2_grpc.add_ValueCacheServicer_to_server(servicer.cache, keeper.api)
    return servicer


class ValueServicer(value_pb2_grpc.ValueServicer):
    """Keeps them in memory: they end with the daemon."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._epoch = secrets.token_hex(8)
        # No run before, which may have been of this name's home, has changed one value once in each microsecond.
        self._values: Values[Content] = Values(before=time.time_ns() // 1000)
        self._store = Store()
        self._reads = Shares("reads of large values", limits.VALUE_READS, limits.VALUE_READS_EACH)
        self._waits = Shares("calls that wait for values", limits.VALUE_WAITS, limits.VALUE_WAITS_EACH)
        self._holds = Shares("holds of values", limits.VALUE_HOLDS, limits.VALUE_HOLDS_EACH)
        self._news = News()
        self._holding: dict[int, Waiters] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._following: asyncio.Task[None] | None = None
        self._tickets = Tickets(self._store)
        self.cache = CacheServicer(keeper, self._here, self._tickets)

    async def start(self) -> None:
        """Serves."""
        self._following = self._loop.create_task(self._follow())
        self.cache.start()

    async def close(self) -> None:
        """Keeps nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        for name in list(self._values):
            self._store.drop(self._values.delete(name).old)
        self._tickets.close()
        self._store.close()
        await self.cache.close()

    # -- reading ----------------------------------------------------------------------------------

    async def Get(self, request: value_pb2.ValueGetRequest, context: CalledContext) -> value_pb2.ValueReply:
        """What it is now."""
        name = self._found(context, READ, request.name)
        return self._reply(name, request)

    async def Read(self, request: value_pb2.ValueGetRequest, context: CalledContext) -> None:
        """All of its bytes."""
        name = self._found(context, READ, request.name)
        reply = self._reply(name, request)
        kept = self._values.get(name)
        if kept is None or not reply.more:
            await pieces.sent(context, reply)
            return
        owner = self._keeper.owner(context)
        self._reads.take(owner)
        try:
            # Before anything is awaited: from then on the value may change.
            with self._store.reading(kept.content) as data:
                await pieces.sent(context, reply)
                for piece in data:
                    await pieces.sent(context, value_pb2.ValueReply(data=piece))
        finally:
            self._reads.give(owner)

    def _here(self, name: str, request: value_pb2.ValueGetRequest) -> tuple[value_pb2.ValueReply, Content | None]:
        """For processes of this machine: the reply, and the content."""
        self._expire()
        kept = self._values.get(name)
        return self._reply(name, request), kept.content if kept is not None else None

    def _reply(self, name: str, known: value_pb2.ValueGetRequest) -> value_pb2.ValueReply:
        info = self._info(name)
        reply = value_pb2.ValueReply(info=info)
        kept = self._values.get(name)
        same = known.version == info.version and known.epoch == info.epoch
        if kept is None or same or known.head:
            return reply
        if kept.content.data is not None:
            reply.data = kept.content.data
        else:
            reply.more = True
        return reply

    def _info(self, name: str) -> value_pb2.ValueInfo:
        info = value_pb2.ValueInfo(epoch=self._epoch, node=self._keeper.node)
        kept = self._values.get(name)
        if kept is not None:
            info.version = kept.version
            info.size = kept.content.size
            info.ttl = max(0.0, kept.expires - self._loop.time()) if kept.expires else 0.0
            info.held = bool(kept.holder)
        return info

    # -- changing ---------------------------------------------------------------------------------

    async def Set(self, request: value_pb2.ValueSetRequest, context: CalledContext) -> value_pb2.ValueSetReply:
        """Changes it to what the message holds."""
        owner = self._keeper.owner(context)
        if request.ticket:
            try:
                self._may_set(context, request, request.size)
                content = await self._tickets.redeem(request.ticket, owner, request.size)
            finally:
                self._tickets.forget(request.ticket)
        else:
            self._may_set(context, request, len(request.data))
            content = self._store.content(request.data, owner)
        return await self._set(context, request, content)

    async def Write(self, _requests: Any, context: CalledContext) -> value_pb2.ValueSetReply:
        """Changes it to what the messages hold."""
        request = await pieces.received(context)
        if request is EOF:
            raise BadRequest("Write was called without a request")
        size = request.size
        self._may_set(context, request, size)
        owner = self._keeper.owner(context)
        self._store.take(owner, size)
        try:
            with Writing(size) as writing:
                writing.put(request.data)
                while writing.missing:
                    piece = await pieces.received(context)
                    if piece is EOF:
                        break
                    writing.put(piece.data)
                content = writing.done(owner)
        except BaseException:
            self._store.give(owner, size)
            raise
        return await self._set(context, request, content)

    def _may_set(self, context: CalledContext, request: value_pb2.ValueSetRequest, size: int) -> None:
        """What can be said before the bytes are there."""
        name = self._found(context, PUBLISH, request.name)
        self._values.check(request.ttl, size)
        if not self._values.version(name):
            self._keeper.check(context, MAKE, KIND, name)

    async def _set(
        self, context: CalledContext, request: value_pb2.ValueSetRequest, content: Content
    ) -> value_pb2.ValueSetReply:
        expected = request.version if request.HasField("version") else None

        def change(name: str) -> Changed[Content]:
            return self._values.set(
                name,
                content,
                self._loop.time(),
                expected=self._expected(name, expected, request.epoch),
                ttl=request.ttl,
                holder=request.holder,
            )

        try:
            name, changed = await self._made(context, request.name, change, make=not expected)
        except BaseException:
            self._store.drop(content)
            raise
        self._store.drop(content if changed.refused else changed.old)
        return value_pb2.ValueSetReply(refused=changed.refused, info=self._info(name))

    async def Add(self, request: value_pb2.ValueAddRequest, context: CalledContext) -> value_pb2.ValueAddReply:
        """Adds to a number."""
        self._found(context, PUBLISH, request.name)
        owner = self._keeper.owner(context)
        number = 0

        def change(name: str) -> Changed[Content]:
            nonlocal number
            number, changed = self._values.add(name, request.amount, lambda data: self._store.content(data, owner))
            return changed

        name, changed = await self._made(context, request.name, change)
        self._store.drop(changed.old)
        return value_pb2.ValueAddReply(number=number, info=self._info(name))

    async def Delete(self, request: value_pb2.ValueDeleteRequest, context: CalledContext) -> value_pb2.ValueSetReply:
        """Ends it."""
        if request.holder:
            # What somebody may hold, it may let go.
            name = self._found(context, PUBLISH, request.name)
            if self._values.is_held(name, request.holder):
                self._release(request.holder)
            return value_pb2.ValueSetReply(info=self._info(name))
        name = self._found(context, MAKE, request.name)
        expected = self._expected(name, request.version if request.HasField("version") else None, request.epoch)
        changed = self._values.delete(name, expected)
        if changed.old is not None:
            self._gone([Gone(name, changed.old)])
        return value_pb2.ValueSetReply(refused=changed.refused, info=self._info(name))

    def _expected(self, name: str, version: int | None, epoch: str) -> int | None:
        """What `version` of a run is in this one."""
        if version and epoch and epoch != self._epoch:
            return self._values.version(name) + 1  # none that it has
        return version

    async def _made(
        self,
        context: CalledContext,
        text: str,
        change: Callable[[str], Changed[Content]],
        *,
        make: bool = True,
    ) -> tuple[str, Changed[Content]]:
        """Changes what is kept here, which it is from then on, if it is one to `make`."""
        self._expire()
        name, _ = naming.parse(KIND, text)
        if make and not self._values.version(name):
            name = await self._keeper.take(context, KIND, text)
        try:
            changed = change(name)
        finally:
            if not self._values.version(name):
                self._keeper.directory.drop(KIND, name)
        if not changed.refused:
            self._news.tell(name)
            self._set_timer()
        return name, changed

    # -- waiting ----------------------------------------------------------------------------------

    async def Next(self, request: value_pb2.ValueNextRequest, context: CalledContext) -> value_pb2.ValueReply:
        """What it is, once it is another than the caller knows."""
        with self._waiting(context, request) as waiters:
            return await self._other(context, request, waiters)

    async def Watch(
        self, request: value_pb2.ValueNextRequest, context: CalledContext
    ) -> AsyncIterator[value_pb2.ValueReply]:
        """The same again and again."""
        with self._waiting(context, request) as waiters:
            while True:
                reply = await self._other(context, request, waiters)
                request.version, request.epoch = reply.info.version, reply.info.epoch
                yield reply

    @contextlib.contextmanager
    def _waiting(self, context: CalledContext, request: value_pb2.ValueNextRequest) -> Iterator[Waiters]:
        """What is told of the changes, as long as somebody waits for them."""
        name = self._found(context, READ, request.name)
        wait_of(request)
        owner = self._keeper.owner(context)
        self._waits.take(owner)
        try:
            with self._news.of(name) as waiters:
                yield waiters
        finally:
            self._waits.give(owner)

    async def _other(
        self, context: CalledContext, request: value_pb2.ValueNextRequest, changed: Waiters
    ) -> value_pb2.ValueReply:
        wait = wait_of(request)
        try:
            async with asyncio.timeout(wait or None):
                while True:
                    name = self._found(context, READ, request.name)
                    version = self._values.version(name)
                    if version != request.version or (version and request.epoch != self._epoch):
                        return self._reply(name, value_pb2.ValueGetRequest())
                    if wait == 0:
                        raise TimedOut(f"the value {name} has not changed")
                    await changed.wait()
        except TimedOut:
            raise
        except TimeoutError:
            raise TimedOut(f"the value {request.name} has not changed within {wait:g} s") from None

    async def _follow(self) -> None:
        """What is not kept here may be elsewhere from now on: those who wait look again."""
        while True:
            await self._keeper.changed.wait()
            for name in self._news:
                if not self._values.version(name):
                    self._news.tell(name)
            self.cache.look()

    # -- ends -------------------------------------------------------------------------------------

    async def Hold(
        self, request: value_pb2.ValueHoldRequest, context: CalledContext
    ) -> AsyncIterator[value_pb2.ValueHoldReply]:
        """Something to tie a value to, as long as the call lasts."""
        name = self._found(context, PUBLISH, request.name)
        owner = self._keeper.owner(context)
        self._holds.take(owner)
        holder = 0
        try:
            # Not to be guessed: whoever has it may end what is tied to it.
            holder = self._values.hold(name, secrets.randbits(62) or 1)
            over = self._holding[holder] = Waiters()
            yield value_pb2.ValueHoldReply(holder=holder, epoch=self._epoch, node=self._keeper.node)
            if holder in self._holding:
                await over.wait()
        finally:
            self._holds.give(owner)
            self._release(holder)

    def _release(self, holder: int) -> None:
        self._gone(self._values.release(holder))
        over = self._holding.pop(holder, None)
        if over is not None:
            over.progressed()

    def _expire(self) -> None:
        self._gone(self._values.expire(self._loop.time()))

    def _gone(self, gone: list[Gone[Content]]) -> None:
        for one in gone:
            self._store.drop(one.old)
            self._keeper.directory.drop(KIND, one.name)
            self._news.tell(one.name)
        if gone:
            self._set_timer()

    def _set_timer(self) -> None:
        """Something ends, perhaps, when it fires."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._values.next_end
        if when < math.inf:
            self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._expire()
        self._set_timer()

    # -- names ------------------------------------------------------------------------------------

    def _found(self, context: CalledContext, verb: str, text: str) -> str:
        """The name without its node, if the caller may, and if it is not another node that keeps it.

        Raises:
            NotAllowed, Elsewhere, Ambiguous, BadRequest: it cannot be here.
        """
        name, node = naming.parse(KIND, text)
        self._keeper.check(context, verb, KIND, name)
        self._expire()
        if not self._values.version(name):
            home = node or self._keeper.directory.find(KIND, name)
            if home and home != self._keeper.node:
                raise Elsewhere(home)
        elif node and node != self._keeper.node:
            raise Elsewhere(node)
        return name
