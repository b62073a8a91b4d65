"""`ipcd.v1.ValueCache`, of a node's own API: values of any node, as memory of this one.

Each time it is asked, the value's home says what is the last version, and whether the caller may have it. Its bytes are
fetched once, however many ask for them, and kept until they are replaced or others need the room.
"""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import grpc
from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits
from ipcd.parties import Attached
from ipcd.primitives.contents import Content, Writing, attached
from ipcd.primitives.host import PUBLISH, READ, Keeper
from ipcd.primitives.nodes import Nodes
from ipcd.primitives.tickets import Tickets

_KIND: Final = "value"
_SERVICE: Final = "/ipcd.v1.Value/"
# How often a value may change while it is fetched, before that is given up.
_TRIES: Final = 8

# What this node keeps itself: the reply to a request for a name, and the content.
Here = Callable[[str, value_pb2.ValueGetRequest], tuple[value_pb2.ValueReply, Content | None]]
# Hands over the memory that there is besides a reply.
_Hand = Callable[[value_pb2.ValueReply, Content | None], None]
# A home, and a name there.
_Key = tuple[str, str]


class _Copy:
    """Of one value of another node. `content`: of the version that `info` says."""

    def __init__(self) -> None:
        self.info = value_pb2.ValueInfo()
        self.content: Content | None = None
        self.fetching = asyncio.Lock()
        self.users = 0

    def is_of(self, info: value_pb2.ValueInfo) -> bool:
        """It is this version."""
        return self.content is not None and (self.info.version, self.info.epoch) == (info.version, info.epoch)

    def drop(self) -> None:
        """It is needed no more."""
        content, self.content = self.content, None
        if content is not None and content.memory is not None:
            content.memory.close()


class CacheServicer(value_pb2_grpc.ValueCacheServicer):
    """Answers processes of this machine."""

    def __init__(self, keeper: Keeper, here: Here, tickets: Tickets) -> None:
        self._keeper = keeper
        self._here = here
        self._tickets = tickets
        self._nodes: Nodes | None = None
        # The one asked for longest ago comes first.
        self._copies: OrderedDict[_Key, _Copy] = OrderedDict()
        self._bytes = 0  # of those, and of those on their way

    def start(self) -> None:
        """On the loop that serves."""
        self._nodes = self._keeper.nodes()

    async def close(self) -> None:
        """Keeps nothing any more."""
        if self._nodes is not None:
            await self._nodes.close()
        for copy in self._copies.values():
            copy.drop()
        self._copies.clear()

    def look(self) -> None:
        """There is news of what the nodes keep: what they keep no more is needed here no more."""
        if not self._copies:
            return
        kept = {(name.node, name.name) for name in self._keeper.directory.all(_KIND)}
        for key, copy in list(self._copies.items()):
            if key not in kept and not copy.users:
                self._forget(key, copy)

    def _forget(self, key: _Key, copy: _Copy) -> None:
        self._bytes -= copy.content.size if copy.content is not None else 0
        copy.drop()
        del self._copies[key]

    async def Map(self, request: value_pb2.ValueGetRequest, context: ServicerContext) -> value_pb2.ValueReply:
        """What it is now, and memory with it."""
        caller = attached(context)
        identity = self._keeper.identity(caller.process)
        home = self._keeper.directory.find(_KIND, request.name) or self._keeper.node
        name, _ = naming.parse(_KIND, request.name)
        hand = partial(_hand, caller, context)
        if home == self._keeper.node:
            self._keeper.check_process(caller.process, READ, _KIND, name)
            reply, content = self._here(name, request)
            hand(reply, content)
        else:
            reply = await self._there((home, name), request, identity, hand)
        return reply

    @contextlib.contextmanager
    def _using(self, key: _Key) -> Iterator[_Copy]:
        """The copy, which is not dropped for this long."""
        copy = self._copies.setdefault(key, _Copy())
        self._copies.move_to_end(key)
        copy.users += 1
        try:
            yield copy
        finally:
            copy.users -= 1
            self._make_room(0)

    async def Allot(self, request: value_pb2.ValueAllotRequest, context: ServicerContext) -> value_pb2.ValueAllotReply:
        """Memory to be written."""
        caller = attached(context)
        if self._keeper.directory.find(_KIND, request.name) not in {"", self._keeper.node}:
            return value_pb2.ValueAllotReply()
        self._keeper.check_process(caller.process, PUBLISH, _KIND, request.name)
        caller.check_unread()
        ticket, memory = self._tickets.issue(caller.owner, request.size)
        context.attach_fds([memory])
        return value_pb2.ValueAllotReply(ticket=ticket)

    async def _there(
        self, key: _Key, known: value_pb2.ValueGetRequest, identity: str, hand: _Hand
    ) -> value_pb2.ValueReply:
        """Its home's answer, of which `hand` takes the content before it can be dropped again."""
        home, name = key
        assert self._nodes is not None
        ask = value_pb2.ValueGetRequest(
            name=f"{name}@{home}", version=known.version, epoch=known.epoch, head=known.head
        )
        for _ in range(_TRIES):
            reply = await self._nodes.call(
                home, _SERVICE + "Get", ask, value_pb2.ValueReply, identity, limits.VALUE_ASK
            )
            if not reply.more:
                if key in self._copies:
                    self._copies.move_to_end(key)
                return reply
            # Only now: what is not there, or not for the caller, takes no room from what is.
            with self._using(key) as copy:
                if not copy.is_of(reply.info):
                    async with copy.fetching:
                        # Whoever came before has fetched it, or one that came after it.
                        if not copy.is_of(reply.info):
                            await self._fetch(home, ask, copy, identity)
                    reply = value_pb2.ValueReply(info=copy.info, more=True)
                if copy.content is not None:
                    hand(reply, copy.content)
                    return reply
        why = f"the value {name} of node {home} changes faster than it can be fetched"
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, why)

    async def _fetch(self, home: str, ask: value_pb2.ValueGetRequest, copy: _Copy, identity: str) -> None:
        """Makes it a copy of what there is now; of nothing, where that is no more than fits into a message."""
        assert self._nodes is not None
        whole = value_pb2.ValueGetRequest(name=ask.name)
        pieces = self._nodes.stream(home, _SERVICE + "Read", whole, value_pb2.ValueReply, identity)
        size = 0
        try:
            async with asyncio.timeout(limits.VALUE_PIECE):
                first = await anext(pieces)
            # Whatever it is now, it is not what was copied before.
            self._bytes -= copy.content.size if copy.content is not None else 0
            copy.drop()
            if not first.more:
                return
            info = _kept(home, first.info)
            wanted = info.size
            limits.check("bytes of one value", wanted, limits.VALUE)
            self._make_room(wanted)
            size = wanted
            self._bytes += size
            with Writing(size) as writing:
                while writing.missing:
                    async with asyncio.timeout(limits.VALUE_PIECE):
                        writing.put((await anext(pieces)).data)
                copy.content, size = writing.done(), 0
            copy.info.CopyFrom(info)
            self._keeper.log.debug("copied a value", name=ask.name, version=info.version, bytes=info.size)
        except (StopAsyncIteration, TimeoutError) as error:
            why = f"node {home} did not send all of the value {ask.name}"
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, why) from error
        finally:
            self._bytes -= size
            await pieces.aclose()

    def _make_room(self, size: int) -> None:
        """For so many bytes more.

        Raises:
            LimitReached: there is none.
        """
        for key, copy in list(self._copies.items()):
            enough = self._bytes + size <= limits.VALUE_COPIES_BYTES and len(self._copies) <= limits.VALUE_COPIES
            if enough and (copy.content is not None or copy.users):
                continue
            if not copy.users:
                self._forget(key, copy)
        if size:
            limits.check("bytes of copies of values", self._bytes + size, limits.VALUE_COPIES_BYTES)


def _kept(home: str, info: value_pb2.ValueInfo) -> value_pb2.ValueInfo:
    """What is kept beside a copy, and counted nowhere: nothing else of what its home says.

    Raises:
        BadRequest: it is too much.
    """
    if len(info.epoch) > limits.NAME:
        raise BadRequest(f"node {home} names a run with {len(info.epoch)} characters; at most {limits.NAME} are taken")
    return value_pb2.ValueInfo(
        version=info.version, epoch=info.epoch, node=home, size=info.size, ttl=info.ttl, held=info.held
    )


def _hand(caller: Attached, context: ServicerContext, reply: value_pb2.ValueReply, content: Content | None) -> None:
    if reply.more and content is not None and content.memory is not None:
        caller.check_unread()
        context.attach_fds([content.descriptor()])
