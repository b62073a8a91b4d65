"""The queues that a node keeps: found, made and restored, with their timers, those who wait, and the disk."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest, NoSuchName, PrimitiveError, TimedOut

from ipcd import limits
from ipcd.primitives.host import PUBLISH, Keeper
from ipcd.primitives.turns import through
from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_gone import Gone
from ipcd.state.queue_message import Message
from ipcd.state.queue_waiters import Arrived, Delivered, Receiver, Sender, Taken, Watcher
from ipcd.state.quota import Owner, Shares

if TYPE_CHECKING:
    from ipcd.primitives.queue_store import Row, Store

KIND: Final = "queue"
_NO_STORE: Final = "durable queues need a disk: start the node with --state-dir"


@dataclass(slots=True, eq=False)
class Box:
    """A queue, and the timer of its leases and delays."""

    queue: Queue
    timer: asyncio.TimerHandle | None = None
    at: float = math.inf


class Boxes:
    """Of one node. `start` first, `close` last."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._boxes: dict[str, Box] = {}
        self._numbers = Numbers(tag=secrets.randbits(62))
        self._bytes = Shares("bytes in queues", limits.QUEUE_BYTES, limits.QUEUE_BYTES_EACH)
        self._waiting = Shares("calls that wait at queues", limits.QUEUE_WAITING, limits.QUEUE_WAITING_EACH)
        self._freeing: set[asyncio.Task[None]] = set()
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
        now = self.now()
        for row in rows:
            self._boxes[row.name] = Box(self._made(row.name, row.options))
            self._keeper.directory.restored(KIND, row.name, row.uid, row.created)
        for row in rows:
            box = self._boxes[row.name]
            for message in row.messages:
                self._numbers.id = max(self._numbers.id, message.id)
                try:
                    self._bytes.take(message.owner, message.cost)
                except limits.LimitReached:
                    # There were more before: they are kept, and count for nobody.
                    message.owner = ()
                    self._bytes.used += message.cost
                box.queue.restore(message, now)
        for box in self._boxes.values():
            self.after(box)

    async def close(self) -> None:
        """Writes down what is left."""
        for box in self._boxes.values():
            if box.timer is not None:
                box.timer.cancel()
        # All of the memory goes now.
        for freeing in self._freeing:
            freeing.cancel()
        if self._freeing:
            await asyncio.wait(self._freeing)
        if self._store is not None:
            await self._store.close()

    # -- which queue ------------------------------------------------------------------------------

    def known(self, text: str) -> Box | None:
        """The queue of a request, if there is one.

        Raises:
            Elsewhere: the request says that it is on another node.
        """
        box = self._boxes.get(text)
        if box is not None:
            return box
        return self._boxes.get(self._keeper.here(KIND, text))

    async def find(self, context: CalledContext, request: Any) -> Box:
        """The queue of a request, made if that says so."""
        while (box := self.known(request.name)) is None:
            if "create" not in request.DESCRIPTOR.fields_by_name or not request.HasField("create"):
                raise self._keeper.missing(KIND, request.name)
            made, _ = await self.make(context, request.name, request.create)
            # Whatever becomes of the request, that the queue is there has been seen. It may have been removed since.
            await self.commit(made)
        return box

    async def make(self, context: CalledContext, text: str, asked: pb.QueueOptions) -> tuple[Box, bool]:
        """A new one, or the one that somebody else has made meanwhile."""
        options = completed(asked)
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
        box = self._boxes[name] = Box(self._made(name, options))
        if options.durable and self._store is not None:
            self._store.make(name, self._keeper.caller(context).uid, time.time(), options)
        return box, True

    def remove(self, box: Box) -> Gone:
        """The end of a queue: what was in it, to be freed."""
        queue = box.queue
        del self._boxes[queue.name]
        if box.timer is not None:
            box.timer.cancel()
        for waiter in list(queue.waiting()):
            queue.leave(waiter, self.now())
            self._told(waiter, NoSuchName(f"queue {queue.name} was removed"))
        self.after(box)
        gone = queue.clear()
        if queue.options.durable and self._store is not None:
            self._store.remove(queue.name)
        self._keeper.directory.drop(KIND, queue.name)
        return gone

    async def free(self, gone: Gone) -> None:
        """Returns once it does not count any more. It goes on where the caller goes: for its owners, too."""
        freeing = asyncio.get_running_loop().create_task(through(gone.pieces()))
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        await asyncio.shield(freeing)

    def _made(self, name: str, options: pb.QueueOptions) -> Queue:
        return Queue(name, options, Around(self._numbers, self._bytes, self._bury, self._store))

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
            box, _ = await self.make(context, f"{name}@{self._keeper.node}", like)
        if options.durable and not box.queue.options.durable:
            raise BadRequest(f"the queue of dead letters, {name}, is not durable")

    def _bury(self, queue: Queue, message: Message, now: float) -> bool:
        """(Around)"""
        box = self._boxes.get(queue.options.dead_letters)
        if box is None:
            return False
        copy = Message(message.priority, message.type, message.data, message.owner, message.sent)
        try:
            if box.queue.send([copy], now, wait=False) == [0]:
                return False  # thrown away, as that queue does where it is full
        except (PrimitiveError, limits.LimitReached):
            return False
        self.after(box)
        return True

    # -- time, waiting, the disk ------------------------------------------------------------------

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self._offset

    def after(self, box: Box) -> None:
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

    def _advance(self, box: Box) -> None:
        box.timer, box.at = None, math.inf
        box.queue.advance(self.now())
        self.after(box)

    async def waits(self, box: Box, waiter: Receiver | Sender, wait: float | None, context: CalledContext) -> Any:
        """What a waiter gets."""
        future = waiter.user = asyncio.get_running_loop().create_future()
        queue = box.queue
        self.after(box)
        try:
            with self.counted(context):
                # It is not cancelled by that: what came at the last moment is there.
                await asyncio.wait({future}, timeout=wait)
        except BaseException:
            # Nobody is there any more.
            queue.leave(waiter, self.now())
            if future.done() and future.exception() is None and isinstance(waiter, Receiver):
                queue.untake(future.result(), self.now())
            self.after(box)
            raise
        if not future.done():
            queue.leave(waiter, self.now())
            self.after(box)
            what = "no message came to" if isinstance(waiter, Receiver) else "there was no room in"
            raise TimedOut(f"{what} queue {queue.name} within {wait:g} s")
        return future.result()

    @contextlib.contextmanager
    def counted(self, context: CalledContext) -> Iterator[None]:
        owner: Owner = self._keeper.owner(context)
        self._waiting.take(owner)
        try:
            yield
        finally:
            self._waiting.give(owner)

    def check_store(self, box: Box) -> None:
        if box.queue.options.durable and self._store is not None:
            self._store.check()

    async def commit(self, box: Box) -> None:
        if box.queue.options.durable and self._store is not None:
            await self._store.commit()

    async def try_to_commit(self, box: Box) -> None:
        """The same, also where the disk does not take it now."""
        if box.queue.options.durable and self._store is not None:
            from ipcd.primitives.queue_store import StoreFailed

            with contextlib.suppress(StoreFailed):
                await self._store.commit()
