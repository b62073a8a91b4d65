"""`ipcd.v1.Queue`: the queues that this node keeps."""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.pb.ipcd.v1 import queue_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest, Empty, NameTaken, NoSuchName, PrimitiveError, TimedOut
from ipcd_client.primitives.waiting import wait_of

from ipcd import limits
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper
from ipcd.state import queue as state
from ipcd.state.queue import Arrived, Delivered, Queue, Receiver, Sender, Taken, Watcher
from ipcd.state.queue_order import Message
from ipcd.state.quota import Owner, Shares

if TYPE_CHECKING:
    from ipcd.primitives.queue_store import Row, Store

KIND: Final = "queue"
_NO_STORE: Final = "durable queues need a disk: start the node with --state-dir"


def add(keeper: Keeper, server: Dispatcher) -> QueueServicer:
    """Serves queues, too."""
    servicer = QueueServicer(keeper)
    queue_pb2_grpc.add_QueueServicer_to_server(servicer, server)
    return servicer


@dataclass(slots=True, eq=False)
class _Box:
    """A queue, and the timer of its leases and delays."""

    queue: Queue
    timer: asyncio.TimerHandle | None = None
    at: float = math.inf


class QueueServicer(queue_pb2_grpc.QueueServicer):
    """`start` first, `close` last."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._boxes: dict[str, _Box] = {}
        self._numbers = state.Numbers(tag=secrets.randbits(62))
        self._bytes = Shares("bytes in queues", limits.QUEUE_BYTES, limits.QUEUE_BYTES_EACH)
        self._waiting = Shares("calls that wait at queues", limits.QUEUE_WAITING, limits.QUEUE_WAITING_EACH)
        self._store: Store | None = None
        self._why_no_store = _NO_STORE
        self._opening = asyncio.Lock()
        self._offset = 0.0

    async def start(self) -> None:
        """Takes up what was kept."""
        # Seconds since the epoch, but never backwards while the daemon runs.
        self._offset = time.time() - asyncio.get_running_loop().time()
        if self._keeper.state_dir is None:
            return
        from ipcd.primitives.queue_store import FILE, StoreFailed  # SQLite, which not every node needs

        self._why_no_store = ""
        if (self._keeper.state_dir / FILE).exists():
            try:
                self._restore(await self._open_store())
            except StoreFailed as error:
                self._why_no_store = str(error)
                self._keeper.log.error("there are no durable queues", reason=error)

    async def _open_store(self) -> list[Row]:
        """The file, made if it is not there: a node without durable queues has none. What was in it.

        Raises:
            StoreFailed: it cannot be read or written.
            BadRequest: the node keeps nothing on disk.
        """
        from ipcd.primitives.queue_store import Store, StoreFailed

        async with self._opening:
            if self._store is not None:
                return []
            if self._why_no_store or self._keeper.state_dir is None:
                raise BadRequest(self._why_no_store)
            store = Store(self._keeper.state_dir, self._keeper.log)
            try:
                rows = await store.open()
            except StoreFailed:
                await store.close()
                raise
            self._store = store
            return rows

    def _restore(self, rows: list[Row]) -> None:
        now = self._now()
        for row in rows:
            self._boxes[row.name] = _Box(self._made(row.name, row.options))
            self._keeper.directory.restored(KIND, row.name, row.uid, row.created)
        for row in rows:
            box = self._boxes[row.name]
            for message in row.messages:
                self._numbers.id = max(self._numbers.id, message.id)
                try:
                    self._bytes.take(message.owner, state.cost(message))
                except limits.LimitReached:
                    # There were more before: they are kept, and count for nobody.
                    message.owner = ()
                    self._bytes.used += state.cost(message)
                box.queue.restore(message, now)
        for box in self._boxes.values():
            self._after(box)

    async def close(self) -> None:
        """Writes down what is left."""
        for box in self._boxes.values():
            if box.timer is not None:
                box.timer.cancel()
        if self._store is not None:
            await self._store.close()

    # -- the methods ------------------------------------------------------------------------------

    async def Create(self, request: pb.QueueCreateRequest, context: CalledContext) -> pb.QueueCreateReply:
        """Makes one."""
        known = self._known(request.name)
        if known is None:
            box, made = await self._make(context, request.name, request.options)
        else:
            self._keeper.check(context, MAKE, KIND, request.name)
            box, made = known, False
        if not made and request.exclusive:
            raise NameTaken(f"there is a queue {box.queue.name} on node {self._keeper.node} already")
        await self._commit(box)
        return pb.QueueCreateReply(made=made, stat=self._stat(box))

    async def Send(self, request: pb.QueueSendRequest, context: CalledContext) -> pb.QueueSendReply:
        """Puts in messages."""
        self._keeper.check(context, PUBLISH, KIND, request.name)
        box = await self._box(context, request)
        if not 0 < len(request.messages) <= limits.QUEUE_BATCH:
            raise BadRequest(f"1 to {limits.QUEUE_BATCH} messages are sent at a time, not {len(request.messages)}")
        wait = wait_of(request)
        self._check_store(box)
        now = self._now()
        # Queues survive their users: what is in them is not a process's, but its user's.
        owner = self._keeper.owner(context)[-1:]
        ids = box.queue.send([state.message_of(each, owner, now) for each in request.messages], now, wait=wait != 0)
        if isinstance(ids, Sender):
            ids = await self._waits(box, ids, wait, context)
        self._after(box)
        await self._commit(box)
        return pb.QueueSendReply(ids=ids)

    async def Receive(self, request: pb.QueueReceiveRequest, context: CalledContext) -> pb.QueueReceiveReply:
        """Takes messages out, or holds them."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._box(context, request)
        queue = box.queue
        type_ = state.checked_type(request.type)
        most = _most_of(request.most)
        wait = wait_of(request)
        held = request.take == pb.QUEUE_TAKE_HOLD or (request.take == pb.QUEUE_TAKE_CONFIRM and queue.options.durable)
        lease = state.checked_lease(request.lease or queue.options.lease) if held else math.inf
        self._check_store(box)
        messages = queue.receive(type_, most, lease, self._now())
        if not messages:
            if wait == 0:
                raise Empty(f"there is nothing {'' if not type_ else 'of that type '}in queue {queue.name}")
            receiver = Receiver(type_, most, lease)
            queue.wait(receiver)
            messages = await self._waits(box, receiver, wait, context)
        reply = pb.QueueReceiveReply(messages=[_shown(message, held=held) for message in messages], held=held)
        if not held:
            for message in messages:
                queue.ack(message.id, message.tag, self._now())
            self._after(box)
            await self._commit(box)
        else:
            self._after(box)
        return reply

    async def Settle(self, request: pb.QueueSettleRequest, context: CalledContext) -> pb.QueueSettleReply:
        """Acknowledges, gives back, or holds for longer."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._box(context, request)
        queue = box.queue
        _most_of(len(request.receipts))
        self._check_store(box)
        now, seconds = self._now(), request.seconds
        reply = pb.QueueSettleReply()
        for receipt in request.receipts:
            if request.how == request.ACK:
                well = queue.ack(receipt.id, receipt.tag, now, again=request.again)
            elif request.how == request.NACK:
                well = queue.nack(receipt.id, receipt.tag, seconds, now)
            elif request.how == request.EXTEND:
                well = queue.extend(receipt.id, receipt.tag, seconds or queue.options.lease, now)
            else:
                raise BadRequest(f"{request.how} is nothing that can be done with a message")
            if not well:
                reply.lost.append(receipt.id)
        self._after(box)
        await self._commit(box)
        return reply

    async def Peek(self, request: pb.QueuePeekRequest, context: CalledContext) -> pb.QueuePeekReply:
        """Looks."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._box(context, request)
        messages = box.queue.peek(state.checked_type(request.type), _most_of(request.most))
        return pb.QueuePeekReply(messages=[_shown(message, held=False) for message in messages])

    async def Purge(self, request: pb.QueuePurgeRequest, context: CalledContext) -> pb.QueuePurgeReply:
        """Throws away."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._box(context, request)
        self._check_store(box)
        count = box.queue.purge(self._now())
        self._after(box)
        await self._commit(box)
        return pb.QueuePurgeReply(messages=count)

    async def Remove(self, request: pb.QueueRemoveRequest, context: CalledContext) -> pb.QueueRemoveReply:
        """The end of a queue."""
        self._keeper.check(context, MAKE, KIND, request.name)
        box = await self._box(context, request)
        self._check_store(box)
        queue = box.queue
        del self._boxes[queue.name]
        if box.timer is not None:
            box.timer.cancel()
        for waiter in list(queue.waiting()):
            queue.leave(waiter, self._now())
            self._told(waiter, NoSuchName(f"queue {queue.name} was removed"))
        self._after(box)
        count = queue.clear()
        if queue.options.durable and self._store is not None:
            self._store.remove(queue.name)
        self._keeper.directory.drop(KIND, queue.name)
        await self._commit(box)
        return pb.QueueRemoveReply(messages=count)

    async def Stat(self, request: pb.QueueStatRequest, context: CalledContext) -> pb.QueueStat:
        """Figures."""
        self._keeper.check(context, READ, KIND, request.name)
        return self._stat(await self._box(context, request))

    async def Notify(
        self, request: pb.QueueNotifyRequest, context: CalledContext
    ) -> AsyncIterator[pb.QueueNotifyReply]:
        """Tells of an arrival."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._box(context, request)
        watcher = Watcher()
        watcher.user = asyncio.get_running_loop().create_future()
        box.queue.wait(watcher)
        try:
            with self._counted(context):
                yield pb.QueueNotifyReply()
                await watcher.user
                yield pb.QueueNotifyReply(arrived=True)
        finally:
            box.queue.leave(watcher, self._now())
            if watcher.user.done() and not watcher.user.cancelled():
                watcher.user.exception()

    # -- which queue ------------------------------------------------------------------------------

    def _known(self, text: str) -> _Box | None:
        """The queue of a request, if there is one.

        Raises:
            Elsewhere: the request says that it is on another node.
        """
        box = self._boxes.get(text)
        if box is not None:
            return box
        return self._boxes.get(self._keeper.here(KIND, text))

    async def _box(self, context: CalledContext, request: Any) -> _Box:
        """The queue of a request, made if that says so."""
        box = self._known(request.name)
        if box is None:
            if "create" not in request.DESCRIPTOR.fields_by_name or not request.HasField("create"):
                raise self._keeper.missing(KIND, request.name)
            box, _ = await self._make(context, request.name, request.create)
            # Whatever becomes of the request, that the queue is there has been seen.
            await self._commit(box)
        return box

    async def _make(self, context: CalledContext, text: str, asked: pb.QueueOptions) -> tuple[_Box, bool]:
        """A new one, or the one that somebody else has made meanwhile."""
        options = state.completed(asked)
        if options.durable:
            if self._store is None:
                await self._open_store()
            assert self._store is not None
            self._store.check()
        if options.dead_letters:
            await self._make_dead_letters(context, text, options)
        name = await self._keeper.take(context, KIND, text)
        box = self._boxes.get(name)
        if box is not None:
            return box, False
        box = self._boxes[name] = _Box(self._made(name, options))
        if options.durable and self._store is not None:
            self._store.make(name, self._keeper.caller(context).uid, time.time(), options)
        return box, True

    def _made(self, name: str, options: pb.QueueOptions) -> Queue:
        return Queue(name, options, state.Around(self._numbers, self._bytes, self._bury, self._store))

    async def _make_dead_letters(self, context: CalledContext, text: str, options: pb.QueueOptions) -> None:
        name, node = naming.parse(KIND, options.dead_letters)
        if node or name == text.partition("@")[0]:
            raise BadRequest("dead_letters is the name of another queue, on the same node")
        # Who may not put anything there must not do so by this.
        self._keeper.check(context, PUBLISH, KIND, name)
        box = self._boxes.get(name)
        if box is None:
            like = pb.QueueOptions()
            like.CopyFrom(options)
            like.ClearField("dead_letters")
            like.ClearField("deliveries")
            box, _ = await self._make(context, f"{name}@{self._keeper.node}", like)
        if options.durable and not box.queue.options.durable:
            raise BadRequest(f"the queue of dead letters, {name}, is not durable")

    def _bury(self, queue: Queue, message: Message, now: float) -> bool:
        """(state.Around)"""
        box = self._boxes.get(queue.options.dead_letters)
        if box is None:
            return False
        copy = Message(message.priority, message.type, message.data, message.owner, message.sent)
        try:
            if box.queue.send([copy], now, wait=False) == [0]:
                return False  # thrown away, as that queue does where it is full
        except (PrimitiveError, limits.LimitReached):
            return False
        self._after(box)
        return True

    # -- time, waiting, the disk ------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time() + self._offset

    def _after(self, box: _Box) -> None:
        """What a verb has led to."""
        queue = box.queue
        while queue.events:
            events, queue.events = queue.events, []
            for event in events:
                if isinstance(event, Delivered):
                    self._told(event.receiver, event.messages)
                elif isinstance(event, Taken):
                    self._told(event.sender, event.ids)
                elif isinstance(event, Arrived):
                    self._told(event.watcher, None)
        at = queue.next_time()
        if at is not None and at < box.at and queue.name in self._boxes:
            if box.timer is not None:
                box.timer.cancel()
            box.at = at
            box.timer = asyncio.get_running_loop().call_at(at - self._offset, self._advance, box)

    @staticmethod
    def _told(waiter: Receiver | Sender | Watcher, result: Any) -> None:
        if waiter.user.done():
            return
        if isinstance(result, Exception):
            waiter.user.set_exception(result)
        else:
            waiter.user.set_result(result)

    def _advance(self, box: _Box) -> None:
        box.timer, box.at = None, math.inf
        box.queue.advance(self._now())
        self._after(box)

    async def _waits(self, box: _Box, waiter: Receiver | Sender, wait: float | None, context: CalledContext) -> Any:
        """What a waiter gets."""
        future = waiter.user = asyncio.get_running_loop().create_future()
        queue = box.queue
        self._after(box)
        try:
            with self._counted(context):
                # It is not cancelled by that: what came at the last moment is there.
                await asyncio.wait({future}, timeout=wait)
        except BaseException:
            # Nobody is there any more.
            queue.leave(waiter, self._now())
            if future.done() and future.exception() is None and isinstance(waiter, Receiver):
                queue.untake(future.result(), self._now())
            self._after(box)
            raise
        if not future.done():
            queue.leave(waiter, self._now())
            self._after(box)
            what = "no message came to" if isinstance(waiter, Receiver) else "there was no room in"
            raise TimedOut(f"{what} queue {queue.name} within {wait:g} s")
        return future.result()

    @contextlib.contextmanager
    def _counted(self, context: CalledContext) -> Iterator[None]:
        owner: Owner = self._keeper.owner(context)
        self._waiting.take(owner)
        try:
            yield
        finally:
            self._waiting.give(owner)

    def _check_store(self, box: _Box) -> None:
        if box.queue.options.durable and self._store is not None:
            self._store.check()

    async def _commit(self, box: _Box) -> None:
        if box.queue.options.durable and self._store is not None:
            await self._store.commit()

    def _stat(self, box: _Box) -> pb.QueueStat:
        queue, counts = box.queue, box.queue.counts
        return pb.QueueStat(
            name=queue.name,
            node=self._keeper.node,
            options=queue.options,
            ready=queue.ready,
            delayed=queue.delayed,
            held=queue.held,
            bytes=queue.bytes,
            receivers=queue.receivers,
            senders=queue.senders,
            sent=counts.sent,
            delivered=counts.delivered,
            returned=counts.returned,
            dropped=counts.dropped,
            dead=counts.dead,
        )


def _shown(message: Message, *, held: bool) -> pb.QueueMessage:
    return pb.QueueMessage(
        id=message.id,
        tag=message.tag if held else 0,
        data=message.data,
        priority=message.priority,
        type=message.type,
        deliveries=message.deliveries,
        sent=message.sent,
    )


def _most_of(most: int) -> int:
    if most > limits.QUEUE_BATCH:
        raise BadRequest(f"at most {limits.QUEUE_BATCH} messages are asked for at a time, not {most}")
    return most or 1
