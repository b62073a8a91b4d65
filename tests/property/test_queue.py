"""A queue does what a plain list of messages would, whatever is done to it in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.errors import Full

from ipcd import limits
from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_message import Message
from ipcd.state.queue_waiters import Arrived, Delivered, Receiver, Sender, Taken, Watcher
from ipcd.state.quota import Key, Owner, Shares

OWNER: Owner = (Key("uid", "uid 7"),)


@dataclass
class Record:
    """A message as the model has it. `state`: "ready", "delayed", "held"."""

    id: int
    priority: int
    type: int
    data: bytes
    state: str = "ready"
    until: float = 0.0
    deliveries: int = 0
    tag: int = 0
    last: int = 0  # that it had, also when it counts no more


@dataclass
class Disk:
    """What a durable queue has written down. (queue_message.Kept)"""

    rows: dict[int, tuple[Any, ...]]

    @staticmethod
    def row(message: Message) -> tuple[Any, ...]:
        return (
            message.data,
            message.priority,
            message.type,
            message.held,
            message.until,
            message.deliveries,
            message.tag,
        )

    def put(self, queue: str, message: Message) -> None:
        assert message.id not in self.rows
        self.rows[message.id] = self.row(message)

    def mark(self, queue: str, message: Message) -> None:
        assert message.id in self.rows
        self.rows[message.id] = self.row(message)

    def delete(self, queue: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.rows[number]


class Queues(RuleBasedStateMachine):
    """One queue with its dead letters, and a list that should be the same."""

    @initialize(
        most=st.integers(1, 5),
        size=st.integers(3, 12),
        full=st.sampled_from(pb.QueueFull.values()),
        deliveries=st.integers(0, 3),
        durable=st.booleans(),
    )
    def begin(self, most: int, size: int, full: pb.QueueFull, deliveries: int, durable: bool) -> None:
        self.now = 100.0
        self.shares = Shares("bytes in queues", 1 << 30, {})
        self.disk = Disk({})
        dead_letters = {"deliveries": deliveries, "dead_letters": "dead"} if deliveries else {}
        self.options = completed(
            pb.QueueOptions(messages=most, bytes=size, when_full=full, durable=durable, **dead_letters)  # type: ignore[arg-type]
        )
        self.numbers = Numbers(tag=1000)
        self.buried: list[bytes] = []
        self.refuses = False
        self.queue = self.made()
        self.model: list[Record] = []
        self.receivers: list[Receiver] = []
        self.senders: list[tuple[Sender, list[Message]]] = []
        self.watchers: list[Watcher] = []
        self.was_empty = True
        self.told: list[Any] = []

    def made(self) -> Queue:
        def bury(queue: Queue, message: Message, now: float) -> bool:
            if not self.refuses:
                self.buried.append(message.data)
            return not self.refuses

        return Queue("q", self.options, Around(self.numbers, self.shares, bury, self.disk))

    # -- the model --------------------------------------------------------------------------------

    def ready(self, type_: int = 0) -> list[Record]:
        found = [one for one in self.model if one.state == "ready"]
        if type_ > 0:
            found = [one for one in found if one.type == type_]
        elif type_ < 0:
            lowest = min((one.type for one in found if one.type <= -type_), default=None)
            found = [one for one in found if one.type == lowest]
        return sorted(found, key=lambda one: (-one.priority, one.id))

    def room(self, size: int, without: Sequence[Record] = ()) -> bool:
        left = [one for one in self.model if one not in without]
        return len(left) < self.options.messages and sum(len(one.data) for one in left) + size <= self.options.bytes

    def put_all(self, messages: list[Message]) -> list[bool | None]:
        """Of the first of them, whether each was put in (None: dropped), as far as there is room."""
        done: list[bool | None] = []
        for message in messages:
            if self.options.when_full == pb.QUEUE_FULL_DROP_OLDEST and self.room(len(message.data), self.ready()):
                while not self.room(len(message.data)):
                    self.model.remove(min(self.ready(), key=lambda one: one.id))
            if self.room(len(message.data)):
                # Their numbers are in the order in which they came in.
                self.next_id += 1
                record = Record(self.next_id, message.priority, message.type, message.data)
                if message.until > self.now:
                    record.state, record.until = "delayed", message.until
                self.model.append(record)
                done.append(True)
            elif self.options.when_full in {pb.QUEUE_FULL_DROP_OLDEST, pb.QUEUE_FULL_DROP_NEWEST}:
                done.append(None)
            else:
                break
        return done

    def hold(self, type_: int, most: int, lease: float) -> list[int]:
        taken = self.ready(type_)[:1] if type_ < 0 else self.ready(type_)[:most]
        while type_ < 0 and len(taken) < most:
            rest = [one for one in self.ready(type_) if one not in taken]
            if rest:
                taken.append(rest[0])
                continue
            break
        ids = []
        for record in taken:
            record.state, record.until = "held", self.now + lease
            record.deliveries += 1
            self.next_tag += 1
            record.tag = record.last = self.next_tag
            ids.append(record.id)
        return ids

    def returned(self, record: Record, delay: float = 0.0) -> None:
        most = self.options.deliveries
        if most and record.deliveries >= most and not self.refuses:
            self.model.remove(record)
            self.expect_buried.append(record.data)
        else:
            record.state, record.until = ("delayed", self.now + delay) if delay else ("ready", 0.0)

    def settle_all(self) -> None:
        """Whoever waits gets what there is."""
        while True:
            progress = False
            while self.senders:
                sender, messages = self.senders[0]
                done = self.put_all(messages)
                if not done:
                    break
                self.told.append(("taken", sender, len(done)))
                del self.senders[0]
                progress = True
            for receiver in list(self.receivers):
                ids = self.hold_many(receiver.type, receiver.most, receiver.lease)
                if ids:
                    self.receivers.remove(receiver)
                    self.told.append(("delivered", receiver, ids))
            if not progress:
                break
        if self.ready() and self.was_empty:
            self.told += [("arrived", watcher, None) for watcher in self.watchers]
            self.watchers.clear()
        self.was_empty = not self.ready()

    def hold_many(self, type_: int, most: int, lease: float) -> list[int]:
        """One after the other: the lowest type may be gone after the first."""
        ids: list[int] = []
        while len(ids) < most:
            one = self.hold(type_, 1, lease)
            if not one:
                break
            ids += one
        return ids

    @property
    def next_id(self) -> int:
        return self._next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._next_id = value

    def __init__(self) -> None:
        super().__init__()
        self._next_id = 0
        self.next_tag = 1000
        self.expect_buried: list[bytes] = []

    # -- what is done -----------------------------------------------------------------------------

    @rule(
        sizes=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        priority=st.sampled_from([0, 5, 31]),
        type_=st.integers(1, 4),
        delay=st.sampled_from([0.0, 0.0, 2.0]),
        wait=st.booleans(),
    )
    def send(self, sizes: list[int], priority: int, type_: int, delay: float, wait: bool) -> None:
        until = self.now + delay if delay else 0.0
        messages = [Message(priority, type_, bytes(size), OWNER, self.now, until=until) for size in sizes]
        done = [] if self.senders else self.put_all(messages)
        if done:
            self.settle_all()
            ids = self.queue.send(messages, self.now, wait=wait)
            assert isinstance(ids, list)
            assert [bool(number) or None for number in ids] == done
        elif not wait or self.options.when_full == pb.QUEUE_FULL_FAIL:
            with pytest.raises(Full):
                self.queue.send(messages, self.now, wait=wait)
        else:
            sender = self.queue.send(messages, self.now, wait=wait)
            assert isinstance(sender, Sender)
            self.senders.append((sender, messages))

    @rule(type_=st.integers(-4, 4), most=st.integers(1, 3), lease=st.sampled_from([1.0, 3.0, math.inf]))
    def receive(self, type_: int, most: int, lease: float) -> None:
        ids = self.hold_many(type_, most, lease)
        self.was_empty = not self.ready()
        messages = self.queue.receive(type_, most, lease, self.now)
        assert [message.id for message in messages] == ids
        if not messages:
            receiver = Receiver(type_, most, lease)
            self.queue.wait(receiver)
            self.receivers.append(receiver)

    @rule()
    def watch(self) -> None:
        watcher = Watcher()
        self.queue.wait(watcher)
        self.watchers.append(watcher)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), how=st.sampled_from(["ack", "nack", "later", "extend", "untake"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        record = data.draw(st.sampled_from(self.model))
        tag = data.draw(st.sampled_from([record.tag, record.last, record.tag + 1, 0]))
        held = record.state == "held" and record.tag == tag
        now = self.now
        if how == "ack":
            well = bool(tag) and record.tag == tag
            if well:
                self.model.remove(record)
                self.settle_all()
            assert self.queue.ack(record.id, tag, now) == well
            assert self.queue.ack(record.id, tag, now, again=True) == (well or (bool(tag) and record.tag == tag))
        elif how in {"nack", "later"}:
            delay = 2.0 if how == "later" else 0.0
            if held:
                record.tag = 0
                self.returned(record, delay)
                self.settle_all()
            assert self.queue.nack(record.id, tag, delay, now) == held
        elif how == "extend":
            if held:
                record.until = now + 5.0
            assert self.queue.extend(record.id, tag, 5.0, now) == held
        elif held:
            # Only what was delivered just now is taken back.
            taken = self.queue._in.get(record.id)
            assert taken is not None
            record.deliveries -= 1
            record.tag = 0
            record.state, record.until = "ready", 0.0
            self.settle_all()
            self.queue.untake([taken], now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5]))
    def time(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((one for one in self.model if 0 < one.until <= self.now), key=lambda one: (one.until, one.id))
        for record in due:
            if record.state == "held":
                self.returned(record)
            else:
                record.state, record.until = "ready", 0.0
        if due:
            self.settle_all()
        self.queue.advance(self.now)

    @precondition(lambda self: self.receivers or self.senders or self.watchers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiting: list[Any] = [*self.receivers, *self.watchers, *(sender for sender, _ in self.senders)]
        waiter = data.draw(st.sampled_from(waiting))
        self.receivers = [one for one in self.receivers if one is not waiter]
        self.watchers = [one for one in self.watchers if one is not waiter]
        if isinstance(waiter, Sender):
            self.senders = [pair for pair in self.senders if pair[0] is not waiter]
            self.settle_all()
        self.queue.leave(waiter, self.now)

    @rule()
    def purge(self) -> None:
        count = sum(one.state != "held" for one in self.model)
        self.model = [one for one in self.model if one.state == "held"]
        self.was_empty = True
        self.settle_all()
        # It has happened before any of it is freed.
        gone = self.queue.purge(self.now)
        assert (len(gone), len(self.queue)) == (count, len(self.model))
        for _ in gone.pieces():
            pass

    @rule(refuses=st.booleans())
    def dead_letters_are_full(self, refuses: bool) -> None:
        self.refuses = refuses

    @precondition(lambda self: self.options.durable)
    @rule(away=st.sampled_from([0.0, 2.5]))
    def restart(self, away: float) -> None:
        """The daemon dies, and everything that was written down is there, after a while."""
        self.now += away
        rows = dict(self.disk.rows)
        self.shares = Shares("bytes in queues", 1 << 30, {})
        self.disk = Disk(dict(rows))
        self.queue = self.made()
        self.receivers, self.senders, self.watchers, self.was_empty = [], [], [], True
        for number, (content, priority, type_, held, until, deliveries, tag) in sorted(rows.items()):
            message = Message(priority, type_, content, OWNER, 0.0, number, tag, deliveries, held, until)
            self.shares.take(OWNER, len(content) + limits.QUEUE_OVERHEAD)
            self.queue.restore(message, self.now)
        for record in self.model:
            if record.until == math.inf:
                # Who took it at once had not told that it was done: nothing was written down of that.
                record.state, record.until = "ready", 0.0
                record.deliveries, record.tag = rows[record.id][5], rows[record.id][6]
            elif record.state == "delayed" and record.until <= self.now:
                record.state, record.until = "ready", 0.0
        self.settle_all()

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue = self.queue
        assert queue.ready == len(self.ready())
        assert queue.delayed == sum(one.state == "delayed" for one in self.model)
        assert queue.held == sum(one.state == "held" for one in self.model)
        assert queue.bytes == sum(len(one.data) for one in self.model)
        assert len(queue) <= self.options.messages
        assert queue.bytes <= self.options.bytes
        assert (queue.receivers, queue.senders) == (len(self.receivers), len(self.senders))
        for type_ in (0, 2, -3):
            shown = [(one.id, one.deliveries) for one in queue.peek(type_, 1)]
            assert shown == [(one.id, one.deliveries) for one in self.ready(type_)[:1]]
        assert [one.id for one in queue.peek(0, 99)] == [one.id for one in self.ready()]
        times = [one.until for one in self.model if 0 < one.until < math.inf]
        assert queue.next_time() == min(times, default=None)
        waiting = sum(len(one.data) + limits.QUEUE_OVERHEAD for _, messages in self.senders for one in messages)
        held = sum(len(one.data) + limits.QUEUE_OVERHEAD for one in self.model)
        assert self.shares.used == held + waiting
        assert self.buried == self.expect_buried
        if self.options.durable:
            assert self.disk.rows.keys() == {one.id for one in self.model}
        assert [self.plain(event) for event in queue.events] == self.told
        queue.events.clear()
        self.told.clear()

    @staticmethod
    def plain(event: Delivered | Taken | Arrived) -> tuple[str, Any, Any]:
        if isinstance(event, Delivered):
            return ("delivered", event.receiver, [message.id for message in event.messages])
        if isinstance(event, Taken):
            return ("taken", event.sender, len(event.ids))
        return ("arrived", event.watcher, None)


TestQueues = Queues.TestCase
