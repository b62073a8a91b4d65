"""What is in a queue: each message ready, delayed or held, and until when. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ipcd.state.queue_message import Kept, Message
from ipcd.state.queue_order import Heap, Ready
from ipcd.state.quota import Shares


class Contents:
    """Of one queue. `kept`: where it is written down, too."""

    def __init__(self, queue: str, shares: Shares, kept: Kept | None) -> None:
        self.ready = Ready()
        self.delayed = 0
        self.bytes = 0
        self._queue = queue
        self._shares = shares
        self._kept = kept
        self._all: dict[int, Message] = {}
        # Leases and delays by their ends.
        self._times = Heap(
            lambda entry: entry[1] in self._all and self._all[entry[1]].until == entry[0],
            lambda: ((one.until, one.id) for one in self._all.values() if 0 < one.until < math.inf),
            lambda: len(self._all),
        )

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._all.values())

    @property
    def held(self) -> int:
        """How many are."""
        return len(self._all) - len(self.ready) - self.delayed

    def get(self, number: int) -> Message | None:
        """If it is there."""
        return self._all.get(number)

    def holds(self, number: int, tag: int) -> Message | None:
        """If it is there, and held by this delivery."""
        message = self._all.get(number)
        return message if message is not None and message.held and message.tag == tag else None

    def put(self, message: Message, now: float) -> None:
        """A new one."""
        self.insert(message, now)
        if self._kept is not None:
            self._kept.put(self._queue, message)

    def insert(self, message: Message, now: float) -> None:
        """One that is written down, if any are."""
        self._all[message.id] = message
        self.bytes += len(message.data)
        # One that is held stays so also where its lease is over: it is `due`, and returned as any other.
        if message.until > now or (message.held and message.until > 0):
            self.delayed += not message.held
            self._times.push((message.until, message.id))
        else:
            message.held = False
            message.until = 0.0
            self.ready.add(message)

    def hold(self, message: Message, tag: int, lease: float, now: float) -> None:
        """It was ready, and is delivered with this tag."""
        self.ready.remove(message)
        message.held = True
        message.deliveries += 1
        message.tag = tag
        self.extend(message, lease, now)

    def extend(self, message: Message, lease: float, now: float) -> None:
        """It is held for so long from now on; an infinite lease is of who settles it at once."""
        message.until = now + lease
        if lease < math.inf:
            self._times.push((message.until, message.id))
            self._mark(message)

    def back(self, message: Message, delay: float, now: float) -> None:
        """It was held."""
        message.held = False
        message.until = now + delay if delay else 0.0
        if delay:
            self.delayed += 1
            self._times.push((message.until, message.id))
        else:
            self.ready.add(message)
        self._mark(message)

    def ripe(self, message: Message) -> None:
        """It was delayed."""
        message.until = 0.0
        self.delayed -= 1
        self.ready.add(message)

    def remove(self, message: Message) -> None:
        """It is there no more, whatever it was."""
        if not message.held:
            if message.until:
                self.delayed -= 1
            else:
                self.ready.remove(message)
        del self._all[message.id]
        self.bytes -= len(message.data)
        self._shares.give(message.owner, message.cost)
        if self._kept is not None:
            self._kept.delete(self._queue, message)

    def next_time(self) -> float | None:
        """When something is `due`."""
        first = self._times.first()
        return None if first is None else first[0]

    def due(self, now: float) -> Message | None:
        """One whose lease or delay is over."""
        first = self._times.first()
        return self._all[first[1]] if first is not None and first[0] <= now else None

    def _mark(self, message: Message) -> None:
        if self._kept is not None:
            self._kept.mark(self._queue, message)
