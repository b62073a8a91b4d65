"""One queue: what is in it, who holds what, and who waits. Pure: time is an argument.

A message is *ready*, *delayed* until it is due, or *held* by the one who received it, until that one settles it or its
lease is over. Each delivery has a tag of its own: who comes with an old one holds it no more.

What a verb does for others than its caller is in `events`, which the caller of the verb takes from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives.errors import BadRequest, Full

from ipcd import limits
from ipcd.state.queue_order import Heap, Message, Ready
from ipcd.state.quota import Owner, Shares

# Where options say nothing.
MESSAGES: Final = 1024
BYTES: Final = 16 << 20
LEASE: Final = 30.0
PRIORITIES: Final = 32
_TYPES: Final = 1 << 63


class Kept(Protocol):
    """Where a durable queue's messages are written down, in the order of the calls."""

    def put(self, queue: str, message: Message) -> None:
        """It is there."""

    def mark(self, queue: str, message: Message) -> None:
        """It is there in another state. This may get lost."""

    def delete(self, queue: str, message: Message) -> None:
        """It is there no more."""


@dataclass(slots=True, eq=False)
class Receiver:
    """Who waits for messages. `lease`: seconds for which they will be held; infinite for who settles them at once."""

    type: int
    most: int
    lease: float
    user: Any = None


@dataclass(slots=True, eq=False)
class Sender:
    """Who waits for room."""

    messages: list[Message]
    user: Any = None


@dataclass(slots=True, eq=False)
class Watcher:
    """Who is told once of what arrives in the empty queue."""

    user: Any = None


class Delivered(NamedTuple):
    """These are held by a receiver now, which waits no more."""

    receiver: Receiver
    messages: list[Message]


class Taken(NamedTuple):
    """So many of a sender's first messages are in, and it waits no more. 0 is the id of one that was thrown away."""

    sender: Sender
    ids: list[int]


class Arrived(NamedTuple):
    """A watcher is told, and watches no more."""

    watcher: Watcher


Event = Delivered | Taken | Arrived


@dataclass(slots=True)
class Counts:
    """Since the queue was made, or restored."""

    sent: int = 0
    delivered: int = 0
    returned: int = 0
    dropped: int = 0
    dead: int = 0


def completed(options: pb.QueueOptions) -> pb.QueueOptions:
    """The options with what they leave out.

    Raises:
        BadRequest: they make no sense.
    """
    full = pb.QueueOptions()
    full.CopyFrom(options)
    full.messages = options.messages or MESSAGES
    full.bytes = options.bytes or BYTES
    full.lease = options.lease or LEASE
    if full.messages > limits.QUEUE_MESSAGES:
        raise BadRequest(f"a queue has room for at most {limits.QUEUE_MESSAGES} messages, not {full.messages}")
    if full.bytes > limits.QUEUE_BYTES:
        raise BadRequest(f"a queue has room for at most {limits.QUEUE_BYTES} bytes, not {full.bytes}")
    checked_lease(full.lease)
    if full.when_full not in pb.QueueFull.values():
        raise BadRequest(f"{full.when_full} is nothing that can be done when a queue is full")
    if full.deliveries and not full.dead_letters:
        raise BadRequest("deliveries are counted for dead_letters: the name of a queue")
    if full.dead_letters and not full.deliveries:
        raise BadRequest("dead_letters goes with deliveries: after how many a message goes there")
    return full


def checked_lease(lease: float) -> float:
    """The lease, if it is one.

    Raises:
        BadRequest: it is none.
    """
    if not 0 < lease <= limits.QUEUE_LEASE:
        raise BadRequest(f"a lease is between 0 and {limits.QUEUE_LEASE:g} s, not {lease:g}")
    return lease


def checked_type(type_: int) -> int:
    """The type of messages that somebody wants, if it is one.

    Raises:
        BadRequest: its negative is none.
    """
    if type_ == -_TYPES:
        raise BadRequest(f"{type_} is the negative of no type")
    return type_


def message_of(draft: pb.QueueDraft, owner: Owner, now: float) -> Message:
    """What somebody sends.

    Raises:
        BadRequest: it makes no sense.
    """
    if draft.priority >= PRIORITIES:
        raise BadRequest(f"a priority is between 0 and {PRIORITIES - 1}, not {draft.priority}")
    if draft.type < 0:
        raise BadRequest(f"the type of a message is 1 or more, not {draft.type}")
    if not 0 <= draft.delay <= limits.QUEUE_DELAY:
        raise BadRequest(f"a delay is between 0 and {limits.QUEUE_DELAY:g} s, not {draft.delay:g}")
    if len(draft.data) > limits.QUEUE_MESSAGE:
        raise BadRequest(f"a message has at most {limits.QUEUE_MESSAGE} bytes, not {len(draft.data)}")
    return Message(
        draft.priority, draft.type or 1, draft.data, owner, now, until=now + draft.delay if draft.delay else 0.0
    )


def cost(message: Message) -> int:
    """What it counts for in its owner's quota."""
    return len(message.data) + limits.QUEUE_OVERHEAD


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
        self._kept = self.around.kept if self.options.durable else None
        self._messages: dict[int, Message] = {}
        self._ready = Ready()
        self._delayed = 0
        self.bytes = 0
        self._receivers: dict[Receiver, None] = {}
        self._senders: dict[Sender, None] = {}
        self._watchers: dict[Watcher, None] = {}
        self._was_empty = True
        # Leases and delays by their ends.
        self._times = Heap(
            lambda entry: entry[1] in self._messages and self._messages[entry[1]].until == entry[0],
            lambda: ((one.until, one.id) for one in self._messages.values() if 0 < one.until < math.inf),
            lambda: len(self._messages),
        )

    # -- figures ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def ready(self) -> int:
        """Messages that can be received."""
        return len(self._ready)

    @property
    def delayed(self) -> int:
        """Those that are not due."""
        return self._delayed

    @property
    def held(self) -> int:
        """Those that somebody has received, and not settled."""
        return len(self._messages) - len(self._ready) - self._delayed

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
        owner = messages[0].owner
        total = sum(map(cost, messages))
        self.around.shares.take(owner, total)
        # Who waits is first.
        ids = [] if self._senders else self._put_all(messages, now)
        if ids:
            self.around.shares.give(owner, sum(map(cost, messages[len(ids) :])))
            self._pump(now)
            return ids
        if not wait or self._full == pb.QUEUE_FULL_FAIL:
            self.around.shares.give(owner, total)
            raise Full(f"queue {self.name} has {len(self._messages)} messages with {self.bytes} bytes")
        sender = Sender(list(messages))
        self._senders[sender] = None
        return sender

    def _put_all(self, messages: Iterable[Message], now: float) -> list[int]:
        ids = []
        for message in messages:
            if self._make_room(len(message.data)):
                self._put(message, now)
            elif self._full in {pb.QUEUE_FULL_DROP_OLDEST, pb.QUEUE_FULL_DROP_NEWEST}:
                self.counts.dropped += 1
                self.around.shares.give(message.owner, cost(message))
            else:
                break
            ids.append(message.id)
        return ids

    def _make_room(self, size: int) -> bool:
        while len(self._messages) >= self._most or self.bytes + size > self._most_bytes:
            oldest = self._ready.oldest() if self._full == pb.QUEUE_FULL_DROP_OLDEST else None
            if oldest is None:
                return False
            self._ready.remove(oldest)
            self._forget(oldest)
            self.counts.dropped += 1
        return True

    def _put(self, message: Message, now: float) -> None:
        message.id = self.around.numbers.next_id()
        self.counts.sent += 1
        self._insert(message, now)
        if self._kept is not None:
            self._kept.put(self.name, message)

    def restore(self, message: Message, now: float) -> None:
        """One that was written down, and counts for its owner already."""
        self._insert(message, now)
        self._pump(now)

    def _insert(self, message: Message, now: float) -> None:
        self._messages[message.id] = message
        self.bytes += len(message.data)
        if message.until > now:
            self._delayed += not message.held
            self._times.push((message.until, message.id))
        else:
            message.held = False
            message.until = 0.0
            self._ready.add(message)

    # -- receiving --------------------------------------------------------------------------------

    def receive(self, type_: int, most: int, lease: float, now: float) -> list[Message]:
        """Holds as many as there are, up to `most`; none if there are none."""
        messages = self._take(type_, most, lease, now)
        if messages and not self._ready:
            self._was_empty = True
        return messages

    def wait(self, waiter: Receiver | Watcher) -> None:
        """There was nothing for it: it waits."""
        if isinstance(waiter, Receiver):
            self._receivers[waiter] = None
        else:
            self._watchers[waiter] = None

    def leave(self, waiter: Receiver | Sender | Watcher, now: float) -> None:
        """It waits no more. Nothing happens if it does not wait."""
        if isinstance(waiter, Receiver):
            self._receivers.pop(waiter, None)
        elif isinstance(waiter, Watcher):
            self._watchers.pop(waiter, None)
        elif waiter in self._senders:
            del self._senders[waiter]
            self.around.shares.give(waiter.messages[0].owner, sum(map(cost, waiter.messages)))
            # There may be room for what the next one sends.
            self._pump(now)

    def untake(self, messages: Iterable[Message], now: float) -> None:
        """They did not get to whom they were delivered: as if nothing had been."""
        for message in messages:
            if self._holds(message.id, message.tag):
                message.deliveries -= 1
                message.tag = 0
                self.counts.delivered -= 1
                self._back(message, 0.0, now)
        self._pump(now)

    def _take(self, type_: int, most: int, lease: float, now: float) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while len(messages) < most:
            message = self._ready.next(type_)
            if message is None or (messages and size + len(message.data) > limits.QUEUE_REPLY):
                break
            size += len(message.data)
            self._ready.remove(message)
            message.held = True
            message.deliveries += 1
            message.tag = self.around.numbers.next_tag()
            message.until = now + lease
            if lease < math.inf:
                self._times.push((message.until, message.id))
                self._mark(message)
            messages.append(message)
        self.counts.delivered += len(messages)
        return messages

    def peek(self, type_: int, most: int) -> list[Message]:
        """What would be received."""
        size = 0
        messages: list[Message] = []
        for message in self._ready.list(type_, most):
            size += len(message.data)
            if messages and size > limits.QUEUE_REPLY:
                break
            messages.append(message)
        return messages

    # -- settling ---------------------------------------------------------------------------------

    def ack(self, number: int, tag: int, now: float, *, again: bool = False) -> bool:
        """Its holder has done with it. So it is also when its lease is over and nobody else has got it since. False if
        it is not its holder; `again`: what is gone has been acknowledged by it."""
        message = self._messages.get(number)
        if message is None:
            return again
        if message.tag != tag or not tag:
            return False
        if not message.held:
            if message.until:
                self._delayed -= 1
            else:
                self._ready.remove(message)
        self._forget(message)
        self._pump(now)
        return True

    def nack(self, number: int, tag: int, delay: float, now: float) -> bool:
        """It goes back, after a delay. False if it was not held so.

        Raises:
            BadRequest: that is no delay.
        """
        if not 0 <= delay <= limits.QUEUE_DELAY:
            raise BadRequest(f"a delay is between 0 and {limits.QUEUE_DELAY:g} s, not {delay:g}")
        if not self._holds(number, tag):
            return False
        message = self._messages[number]
        # It is not its holder's any more, also if nobody else gets it.
        message.tag = 0
        self._return(message, delay, now)
        self._pump(now)
        return True

    def extend(self, number: int, tag: int, lease: float, now: float) -> bool:
        """It is held for so long from now on. False if it was not held so."""
        checked_lease(lease)
        if not self._holds(number, tag):
            return False
        message = self._messages[number]
        message.until = now + lease
        self._times.push((message.until, number))
        self._mark(message)
        return True

    def _holds(self, number: int, tag: int) -> bool:
        message = self._messages.get(number)
        return message is not None and message.held and message.tag == tag

    def _return(self, message: Message, delay: float, now: float) -> None:
        self.counts.returned += 1
        most = self.options.deliveries
        if most and message.deliveries >= most and self.around.bury(self, message, now):
            self.counts.dead += 1
            self._forget(message)
        else:
            self._back(message, delay, now)

    def _back(self, message: Message, delay: float, now: float) -> None:
        message.held = False
        message.until = now + delay if delay else 0.0
        if delay:
            self._delayed += 1
            self._times.push((message.until, message.id))
        else:
            self._ready.add(message)
        self._mark(message)

    def _mark(self, message: Message) -> None:
        if self._kept is not None:
            self._kept.mark(self.name, message)

    def _forget(self, message: Message) -> None:
        del self._messages[message.id]
        self.bytes -= len(message.data)
        self.around.shares.give(message.owner, cost(message))
        if self._kept is not None:
            self._kept.delete(self.name, message)

    def purge(self, now: float) -> int:
        """Throws away what nobody holds: how many."""
        gone = [message for message in self._messages.values() if not message.held]
        for message in gone:
            if message.until:
                self._delayed -= 1
            else:
                self._ready.remove(message)
            self._forget(message)
        self._pump(now)
        return len(gone)

    def clear(self) -> int:
        """The end: how many there were. Who waits is to be told by the caller."""
        count = len(self._messages)
        for message in list(self._messages.values()):
            self._forget(message)
        return count

    # -- time -------------------------------------------------------------------------------------

    def next_time(self) -> float | None:
        """When `advance` has something to do."""
        first = self._times.first()
        return None if first is None else first[0]

    def advance(self, now: float) -> None:
        """Leases are over, and messages due."""
        due = False
        while (first := self._times.first()) is not None and first[0] <= now:
            due = True
            message = self._messages[first[1]]
            if message.held:
                self._return(message, 0.0, now)
            else:
                message.until = 0.0
                self._delayed -= 1
                self._ready.add(message)
        if due:
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Gives those who wait what there is for them."""
        while True:
            progress = False
            while self._senders:
                sender = next(iter(self._senders))
                ids = self._put_all(sender.messages, now)
                if not ids:
                    break
                self.around.shares.give(sender.messages[0].owner, sum(map(cost, sender.messages[len(ids) :])))
                del self._senders[sender]
                self.events.append(Taken(sender, ids))
                progress = True
            for receiver in list(self._receivers) if self._ready else ():
                messages = self._take(receiver.type, receiver.most, receiver.lease, now)
                if messages:
                    del self._receivers[receiver]
                    self.events.append(Delivered(receiver, messages))
            if not progress:
                break
        if self._ready and self._was_empty:
            self.events += map(Arrived, self._watchers)
            self._watchers.clear()
        self._was_empty = not self._ready
