"""`ipcd.v1.Queue`: the queues that this node keeps."""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.pb.ipcd.v1 import queue_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Empty, NameTaken
from ipcd_client.primitives.waiting import wait_of

from ipcd import limits
from ipcd.primitives.host import MAKE, PUBLISH, READ, Keeper
from ipcd.primitives.queue_boxes import KIND, Box, Boxes
from ipcd.state.queue_asked import checked_lease, checked_type, message_of
from ipcd.state.queue_message import Message
from ipcd.state.queue_waiters import Receiver, Sender, Watcher


def add(keeper: Keeper, server: Dispatcher) -> QueueServicer:
    """Serves queues, too."""
    servicer = QueueServicer(keeper)
    queue_pb2_grpc.add_QueueServicer_to_server(servicer, server)
    return servicer


class QueueServicer(queue_pb2_grpc.QueueServicer):
    """`start` first, `close` last."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._boxes = Boxes(keeper)

    async def start(self) -> None:
        """Takes up what was kept."""
        await self._boxes.start()

    async def close(self) -> None:
        """Writes down what is left."""
        await self._boxes.close()

    # -- the methods ------------------------------------------------------------------------------

    async def Create(self, request: pb.QueueCreateRequest, context: CalledContext) -> pb.QueueCreateReply:
        """Makes one."""
        known = self._boxes.known(request.name)
        if known is None:
            box, made = await self._boxes.make(context, request.name, request.options)
        else:
            self._keeper.check(context, MAKE, KIND, request.name)
            box, made = known, False
        if not made and request.exclusive:
            raise NameTaken(f"there is a queue {box.queue.name} on node {self._keeper.node} already")
        await self._boxes.commit(box)
        reply = pb.QueueCreateReply(made=made)
        # Who may make it need not be one who may look into it.
        if self._keeper.may(context, READ, KIND, box.queue.name):
            reply.stat.CopyFrom(self._stat(box))
        return reply

    async def Send(self, request: pb.QueueSendRequest, context: CalledContext) -> pb.QueueSendReply:
        """Puts in messages."""
        self._keeper.check(context, PUBLISH, KIND, request.name)
        box = await self._boxes.find(context, request)
        if not 0 < len(request.messages) <= limits.QUEUE_BATCH:
            raise BadRequest(f"1 to {limits.QUEUE_BATCH} messages are sent at a time, not {len(request.messages)}")
        wait = wait_of(request)
        self._boxes.check_store(box)
        now = self._boxes.now()
        # Queues survive their users: what is in them is not a process's, but its user's.
        owner = self._keeper.owner(context)[-1:]
        ids = box.queue.send([message_of(each, owner, now) for each in request.messages], now, wait=wait != 0)
        if isinstance(ids, Sender):
            ids = await self._boxes.waits(box, ids, wait, context)
        self._boxes.after(box)
        await self._boxes.commit(box)
        return pb.QueueSendReply(ids=ids)

    async def Receive(self, request: pb.QueueReceiveRequest, context: CalledContext) -> pb.QueueReceiveReply:
        """Takes messages out, or holds them."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._boxes.find(context, request)
        queue = box.queue
        type_ = checked_type(request.type)
        most = _most_of(request.most)
        wait = wait_of(request)
        held = request.take == pb.QUEUE_TAKE_HOLD or (request.take == pb.QUEUE_TAKE_CONFIRM and queue.options.durable)
        lease = checked_lease(request.lease or queue.options.lease) if held else math.inf
        self._boxes.check_store(box)
        messages = queue.receive(type_, most, lease, self._boxes.now())
        if not messages:
            if wait == 0:
                raise Empty(f"there is nothing {'' if not type_ else 'of that type '}in queue {queue.name}")
            receiver = Receiver(type_, most, lease)
            queue.wait(receiver)
            messages = await self._boxes.waits(box, receiver, wait, context)
            try:
                # It may have failed meanwhile.
                self._boxes.check_store(box)
            except IpcdError:
                queue.untake(messages, self._boxes.now())
                self._boxes.after(box)
                raise
        reply = pb.QueueReceiveReply(messages=[_shown(message, held=held) for message in messages], held=held)
        if not held:
            for message in messages:
                queue.ack(message.id, message.tag, self._boxes.now())
            self._boxes.after(box)
            # They are gone from memory, and will be from the disk: rather twice than never.
            await self._boxes.try_to_commit(box)
        else:
            self._boxes.after(box)
        return reply

    async def Settle(self, request: pb.QueueSettleRequest, context: CalledContext) -> pb.QueueSettleReply:
        """Acknowledges, gives back, or holds for longer."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._boxes.find(context, request)
        queue = box.queue
        _most_of(len(request.receipts))
        self._boxes.check_store(box)
        now, seconds = self._boxes.now(), request.seconds
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
        self._boxes.after(box)
        await self._boxes.commit(box)
        return reply

    async def Peek(self, request: pb.QueuePeekRequest, context: CalledContext) -> pb.QueuePeekReply:
        """Looks."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._boxes.find(context, request)
        messages = box.queue.peek(checked_type(request.type), _most_of(request.most))
        return pb.QueuePeekReply(messages=[_shown(message, held=False) for message in messages])

    async def Purge(self, request: pb.QueuePurgeRequest, context: CalledContext) -> pb.QueuePurgeReply:
        """Throws away."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._boxes.find(context, request)
        self._boxes.check_store(box)
        gone = box.queue.purge(self._boxes.now())
        self._boxes.after(box)
        await self._boxes.free(gone)
        await self._boxes.commit(box)
        return pb.QueuePurgeReply(messages=len(gone))

    async def Remove(self, request: pb.QueueRemoveRequest, context: CalledContext) -> pb.QueueRemoveReply:
        """The end of a queue."""
        self._keeper.check(context, MAKE, KIND, request.name)
        box = await self._boxes.find(context, request)
        self._boxes.check_store(box)
        gone = self._boxes.remove(box)
        await self._boxes.free(gone)
        await self._boxes.commit(box)
        return pb.QueueRemoveReply(messages=len(gone))

    async def Stat(self, request: pb.QueueStatRequest, context: CalledContext) -> pb.QueueStat:
        """Figures."""
        self._keeper.check(context, READ, KIND, request.name)
        return self._stat(await self._boxes.find(context, request))

    async def Notify(
        self, request: pb.QueueNotifyRequest, context: CalledContext
    ) -> AsyncIterator[pb.QueueNotifyReply]:
        """Tells of an arrival."""
        self._keeper.check(context, READ, KIND, request.name)
        box = await self._boxes.find(context, request)
        watcher = Watcher()
        watcher.user = asyncio.get_running_loop().create_future()
        box.queue.wait(watcher)
        try:
            with self._boxes.counted(context):
                yield pb.QueueNotifyReply()
                await watcher.user
                yield pb.QueueNotifyReply(arrived=True)
        finally:
            box.queue.leave(watcher, self._boxes.now())
            if watcher.user.done() and not watcher.user.cancelled():
                watcher.user.exception()

    def _stat(self, box: Box) -> pb.QueueStat:
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
