"""What is in a queue: each message ready, delayed or held, and until when. Pure."""

from __future__ import annotations

import math

from ipcd.state.queue_gone import Gone
from ipcd.state.queue_message import Kept, Message
from ipcd.state.queue_order import Ready, Timed
from ipcd.state.quota import Shares


class Contents:
    """Of one queue. `kept`: where it is written down, too."""

    def __init__(self, queue: str, shares: Shares, kept: Kept | None) -> None:
        self.ready = Ready()
        self._delayed = Timed()
        self._held = Timed()
        self._queue = queue
        self._shares = shares
        self._kept = kept

    def __len__(self) -> int:
        return len(self.ready) + len(self._delayed) + len(self._held)

    @property
    def bytes(self) -> int:
        """Of the data of all."""
        return self.ready.bytes + self._delayed.bytes + self._held.bytes

    @property
    def delayed(self) -> int:
        """How many are."""
        return len(self._delayed)

    @property
    def held(self) -> int:
        """How many are."""
        return len(self._held)

    def get(self, number: int) -> Message | None:
        """If it is there."""
        return self._held.get(number) or self.ready.get(number) or self._delayed.get(number)

    def holds(self, number: int, tag: int) -> Message | None:
        """If it is there, and held by this delivery."""
        message = self._held.get(number)
        return message if message is not None and message.tag == tag else None

    def put(self, message: Message, now: float) -> None:
        """A new one."""
        self.insert(message, now)
        if self._kept is not None:
            self._kept.put(self._queue, message)

    def insert(self, message: Message, now: float) -> None:
        """One that is written down, if any are."""
        # One that is held stays so also where its lease is over: it is `due`, and returned as any other.
        if message.held and message.until > 0:
            self._held.add(message)
        elif message.until > now:
            self._delayed.add(message)
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
        message.until = now + lease
        self._held.add(message)
        if lease < math.inf:
            self._mark(message)

    def extend(self, message: Message, lease: float, now: float) -> None:
        """It is held, and is for so long from now on."""
        self._held.move(message, now + lease)
        self._mark(message)

    def back(self, message: Message, delay: float, now: float) -> None:
        """It was held."""
        self._held.remove(message)
        message.held = False
        if delay:
            message.until = now + delay
            self._delayed.add(message)
        else:
            message.until = 0.0
            self.ready.add(message)
        self._mark(message)

    def ripe(self, message: Message) -> None:
        """It was delayed."""
        self._delayed.remove(message)
        message.until = 0.0
        self.ready.add(message)

    def remove(self, message: Message) -> None:
        """It is there no more, whatever it was."""
        if message.held:
            self._held.remove(message)
        elif message.until:
            self._delayed.remove(message)
        else:
            self.ready.remove(message)
        self._shares.give(message.owner, message.cost)
        if self._kept is not None:
            self._kept.delete(self._queue, (message.id,))

    def sweep(self) -> Gone:
        """What nobody holds is there no more, at once, however much it is. The caller frees it."""
        gone = Gone(self._shares, self.ready, self._delayed)
        self.ready, self._delayed = Ready(), Timed()
        if self._kept is not None:
            self._kept.delete(self._queue, gone.ids())
        return gone

    def clear(self) -> Gone:
        """The same of all there is, with the queue itself: so nothing of it is written down."""
        gone = Gone(self._shares, self.ready, self._delayed, self._held)
        self.ready, self._delayed, self._held = Ready(), Timed(), Timed()
        return gone

    def next_time(self) -> float | None:
        """When something is `due`."""
        times = [first[0] for first in (self._held.first(), self._delayed.first()) if first is not None]
        return min(times, default=None)

    def due(self, now: float) -> Message | None:
        """One whose lease or delay is over: that which has been for the longest time."""
        firsts = [first for first in (self._held.first(), self._delayed.first()) if first is not None]
        if not firsts:
            return None
        until, number = min(firsts)
        return self.get(number) if until <= now else None

    def _mark(self, message: Message) -> None:
        if self._kept is not None:
            self._kept.mark(self._queue, message)
