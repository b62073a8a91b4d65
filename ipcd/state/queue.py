"""One queue: its bounds, and who waits. Pure: time is an argument.

A message is *ready*, *delayed* until it is due, or *held* by the one who received it, until that one settles it or its
lease is over. Each delivery has a tag of its own: who comes with an old one holds it no more.

What a verb does for others than its caller is in `events`, which the caller of the verb takes from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.errors import BadRequest, Full

from ipcd import limits
from ipcd.state.queue_asked import checked_delay, checked_lease
from ipcd.state.queue_contents import Contents
from ipcd.state.queue_gone import PIECE, Gone
from ipcd.state.queue_message import Kept, Message, cost
from ipcd.state.queue_waiters import Arrived, Delivered, Event, Receiver, Receivers, Sender, Taken, Watcher
from ipcd.state.quota import Shares

_DROPPING = frozenset({pb.QUEUE_FULL_DROP_OLDEST, pb.QUEUE_FULL_DROP_NEWEST})


@dataclass(slots=True)
class Counts:
    """Since the queue was made, or restored."""

    sent: int = 0
    delivered: int = 0
    returned: int = 0
    dropped: int = 0
    dead: int = 0


@dataclass(slots=True)
class Numbers:
    """Of all queues of a node. `tag` begins at random, so that no earlier daemon has given one of ours by chance."""

    id: int = 0
    tag: int = 0

    def next_id(self) -> int:
        """Of a message."""
        self.id += 1
        return self.id

    def next_tag(self) -> int:
        """Of a delivery."""
        self.tag += 1
        return self.tag


@dataclass(slots=True)
class Around:
    """What a queue has of its node. `bury(queue, message, now)`: takes a message as a dead letter; False where it
    cannot."""

    numbers: Numbers
    shares: Shares
    bury: Callable[[Queue, Message, float], bool]
    kept: Kept | None = None


@dataclass(eq=False)
class Queue:
    """`options` are complete."""

    name: str
    options: pb.QueueOptions
    around: Around
    events: list[Event] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        # These are asked for at each message, and a message's fields are slow.
        self._most = self.options.messages
        self._most_bytes = self.options.bytes
        self._full = self.options.when_full
        self._in = Contents(self.name, self.around.shares, self.around.kept if self.options.durable else None)
        self._receivers = Receivers()
        self._senders: dict[Sender, None] = {}
        self._watchers: dict[Watcher, None] = {}
        self._was_empty = True

    # -- figures ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._in)

    @property
    def ready(self) -> int:
        """Messages that can be received."""
        return len(self._in.ready)

    @property
    def delayed(self) -> int:
        """Those that are not due."""
        return self._in.delayed

    @property
    def held(self) -> int:
        """Those that somebody has received, and not settled."""
        return self._in.held

    @property
    def bytes(self) -> int:
        """Of the data of all of them."""
        return self._in.bytes

    @property
    def receivers(self) -> int:
        """Who wait for messages."""
        return len(self._receivers)

    @property
    def senders(self) -> int:
        """Who wait for room."""
        return len(self._senders)

    def waiting(self) -> Iterator[Receiver | Sender | Watcher]:
        """All who wait."""
        yield from self._receivers
        yield from self._senders
        yield from self._watchers

    # -- sending ----------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message], now: float, *, wait: bool) -> list[int] | Sender:
        """Puts in as many of the first as there is room for: their ids, or who waits now as there is none.

        Raises:
            Full: there is none, and the sender does not wait.
            LimitReached: its owner has too much in queues.
            BadRequest: one would never find room.
        """
        for message in messages:
            if len(message.data) > self._most_bytes:
                raise BadRequest(
                    f"queue {self.name} has room for {self._most_bytes} bytes, not for {len(message.data)}"
                )
        shares, owner = self.around.shares, messages[0].owner
        shares.take(owner, cost(messages))
        # Who waits is first.
        ids = [] if self._senders else self._put_all(messages, now)
        if ids:
            shares.give(owner, cost(messages[len(ids) :]))
            self._pump(now)
            return ids
        if not wait or self._full == pb.QUEUE_FULL_FAIL:
            shares.give(owner, cost(messages))
            # No figures: whoever may send need not be one who may look.
            raise Full(f"queue {self.name} is full: it takes {self._most} messages with {self._most_bytes} bytes")
        sender = Sender(list(messages))
        self._senders[sender] = None
        return sender

    def _put_all(self, messages: Iterable[Message], now: float) -> list[int]:
        ids = []
        for message in messages:
            if self._make_room(len(message.data)):
                message.id = self.around.numbers.next_id()
                self.counts.sent += 1
                self._in.put(message, now)
            elif self._full in _DROPPING:
                self.counts.dropped += 1
                self.around.shares.give(message.owner, message.cost)
            else:
                break
            ids.append(message.id)
        return ids

    def _make_room(self, size: int) -> bool:
        inside = self._in
        if len(inside) < self._most and inside.bytes + size <= self._most_bytes:
            return True
        ready = inside.ready
        if self._full != pb.QUEUE_FULL_DROP_OLDEST or (
            # None of them is thrown away for what has no room without all of them.
            len(inside) - len(ready) >= self._most or inside.bytes - ready.bytes + size > self._most_bytes
        ):
            return False
        while len(inside) >= self._most or inside.bytes + size > self._most_bytes:
            oldest = ready.oldest()
            assert oldest is not None
            inside.remove(oldest)
            self.counts.dropped += 1
        return True

    def restore(self, message: Message, now: float) -> None:
        """One that was written down, and counts for its owner already."""
        self._in.insert(message, now)
        self._pump(now)

    # -- receiving --------------------------------------------------------------------------------

    def receive(self, type_: int, most: int, lease: float, now: float) -> list[Message]:
        """Holds as many as there are, up to `most`; none if there are none."""
        messages = self._take(type_, most, lease, now)
        if messages and not self._in.ready:
            self._was_empty = True
        return messages

    def wait(self, waiter: Receiver | Watcher) -> None:
        """There was nothing for it: it waits."""
        if isinstance(waiter, Receiver):
            self._receivers.add(waiter)
        else:
            self._watchers[waiter] = None

    def leave(self, waiter: Receiver | Sender | Watcher, now: float) -> None:
        """It waits no more. Nothing happens if it does not wait."""
        if isinstance(waiter, Receiver):
            self._receivers.discard(waiter)
        elif isinstance(waiter, Watcher):
            self._watchers.pop(waiter, None)
        elif waiter in self._senders:
            del self._senders[waiter]
            self.around.shares.give(waiter.messages[0].owner, cost(waiter.messages))
            # There may be room for what the next one sends.
            self._pump(now)

    def untake(self, messages: Iterable[Message], now: float) -> None:
        """They did not get to whom they were delivered: as if nothing had been."""
        for message in messages:
            if self._in.holds(message.id, message.tag):
                message.deliveries -= 1
                message.tag = 0
                self.counts.delivered -= 1
                self._in.back(message, 0.0, now)
        self._pump(now)

    def _take(self, type_: int, most: int, lease: float, now: float) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while len(messages) < most:
            message = self._in.ready.next(type_)
            if message is None or (messages and size + len(message.data) > limits.QUEUE_REPLY):
                break
            size += len(message.data)
            self._in.hold(message, self.around.numbers.next_tag(), lease, now)
            messages.append(message)
        self.counts.delivered += len(messages)
        return messages

    def peek(self, type_: int, most: int) -> list[Message]:
        """What would be received."""
        size = 0
        messages: list[Message] = []
        for message in self._in.ready.list(type_, most):
            size += len(message.data)
            if messages and size > limits.QUEUE_REPLY:
                break
            messages.append(message)
        return messages

    # -- settling ---------------------------------------------------------------------------------

    def ack(self, number: int, tag: int, now: float, *, again: bool = False) -> bool:
        """Its holder has done with it. So it is also when its lease is over and nobody else has got it since. False if
        it is not its holder; `again`: what is gone has been acknowledged by it."""
        message = self._in.get(number)
        if message is None:
            return again
        if message.tag != tag or not tag:
            return False
        self._in.remove(message)
        self._pump(now)
        return True

    def nack(self, number: int, tag: int, delay: float, now: float) -> bool:
        """It goes back, after a delay. False if it was not held so.

        Raises:
            BadRequest: that is no delay.
        """
        checked_delay(delay)
        message = self._in.holds(number, tag)
        if message is None:
            return False
        # It is not its holder's any more, also if nobody else gets it.
        message.tag = 0
        self._return(message, delay, now)
        self._pump(now)
        return True

    def extend(self, number: int, tag: int, lease: float, now: float) -> bool:
        """It is held for so long from now on. False if it was not held so.

        Raises:
            BadRequest: that is no lease.
        """
        checked_lease(lease)
        message = self._in.holds(number, tag)
        if message is None:
            return False
        self._in.extend(message, lease, now)
        return True

    def _return(self, message: Message, delay: float, now: float) -> None:
        self.counts.returned += 1
        most = self.options.deliveries
        if most and message.deliveries >= most and self.around.bury(self, message, now):
            self.counts.dead += 1
            self._in.remove(message)
        else:
            self._in.back(message, delay, now)

    def purge(self, now: float) -> Gone:
        """Throws away what nobody holds, all of it at once, for the caller to free."""
        gone = self._in.sweep()
        # What those who wait for room put in now arrives in the empty queue.
        self._was_empty = True
        self._pump(now)
        return gone

    def clear(self) -> Gone:
        """The end: what there was, for the caller to free. Who waits is to be told by the caller."""
        return self._in.clear()

    # -- time -------------------------------------------------------------------------------------

    def next_time(self) -> float | None:
        """When `advance` has something to do."""
        return self._in.next_time()

    def advance(self, now: float) -> None:
        """Leases are over, and messages due: of very many some, and `next_time` is over for the others."""
        due = False
        for _ in range(PIECE):
            message = self._in.due(now)
            if message is None:
                break
            due = True
            if message.held:
                self._return(message, 0.0, now)
            else:
                self._in.ripe(message)
        if due:
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Gives those who wait what there is for them."""
        ready = self._in.ready
        while True:
            progress = False
            while self._senders:
                sender = next(iter(self._senders))
                ids = self._put_all(sender.messages, now)
                if not ids:
                    break
                self.around.shares.give(sender.messages[0].owner, cost(sender.messages[len(ids) :]))
                del self._senders[sender]
                self.events.append(Taken(sender, ids))
                progress = True
            while ready and (receiver := self._receivers.first(ready)) is not None:
                self._receivers.discard(receiver)
                messages = self._take(receiver.type, receiver.most, receiver.lease, now)
                self.events.append(Delivered(receiver, messages))
            if not progress:
                break
        if ready and self._was_empty:
            self.events += map(Arrived, self._watchers)
            self._watchers.clear()
        self._was_empty = not ready
