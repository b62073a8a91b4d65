"""Which message of a queue comes next, and whose time is over next. Pure.

Heaps from which nothing is taken out but at the front: what has gone meanwhile is passed over when it gets there, and
swept out once it is more than what is still there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ipcd.state.queue_message import Message

# Entries that have gone and may stay, whatever there is.
_SLACK: Final = 64

Entries = list[tuple[float, int]]


class Heap:
    """Of (rank, id), where `there(entry)` says which still count, and `entries()` all of them."""

    def __init__(
        self,
        there: Callable[[tuple[float, int]], bool],
        entries: Callable[[], Iterable[tuple[float, int]]],
        size: Callable[[], int],
    ) -> None:
        self._heap: Entries = []
        self._there = there
        self._entries = entries
        self._size = size

    @property
    def all(self) -> Entries:
        """Also those that count no more, for who takes it apart."""
        return self._heap

    def push(self, entry: tuple[float, int]) -> None:
        """One more; it may be there already."""
        heapq.heappush(self._heap, entry)
        self._sweep()

    def _sweep(self) -> None:
        if len(self._heap) > 2 * self._size() + _SLACK:
            self._heap = list(self._entries())
            heapq.heapify(self._heap)

    def first(self) -> tuple[float, int] | None:
        """The least."""
        if self._heap and not self._there(self._heap[0]):
            # Else all that has gone would be passed over one by one, at once, where the first went last.
            self._sweep()
        return self._front()

    def _front(self) -> tuple[float, int] | None:
        while self._heap:
            if self._there(self._heap[0]):
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def least(self, most: int) -> list[tuple[float, int]]:
        """The least of them, in order. The others are not touched, however many there are."""
        self._sweep()
        found: list[tuple[float, int]] = []
        # What is not there meanwhile is not to be swept in again.
        while len(found) < most and (first := self._front()) is not None:
            heapq.heappop(self._heap)
            if not found or found[-1] != first:
                found.append(first)
        for entry in found:
            heapq.heappush(self._heap, entry)
        return found


class Timed:
    """Messages that are aside until a time, each at its `until`. `bytes`: of their data."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.bytes = 0
        self._heap = Heap(
            lambda entry: entry[1] in self.messages and self.messages[entry[1]].until == entry[0],
            lambda: ((one.until, one.id) for one in self.messages.values() if one.until < math.inf),
            lambda: len(self.messages),
        )

    def __len__(self) -> int:
        return len(self.messages)

    def get(self, number: int) -> Message | None:
        """If it is there."""
        return self.messages.get(number)

    def add(self, message: Message) -> None:
        """One more."""
        self.messages[message.id] = message
        self.bytes += len(message.data)
        if message.until < math.inf:
            self._heap.push((message.until, message.id))

    def move(self, message: Message, until: float) -> None:
        """It is there until another time."""
        message.until = until
        self._heap.push((until, message.id))

    def remove(self, message: Message) -> None:
        """One less."""
        del self.messages[message.id]
        self.bytes -= len(message.data)

    def first(self) -> tuple[float, int] | None:
        """Until when the first is, and its id."""
        return self._heap.first()

    def rest(self) -> Iterator[Entries]:
        """What there is beside `messages`, for who takes all of it apart."""
        yield self._heap.all


class _OfType:
    """The messages of one type."""

    def __init__(self) -> None:
        messages: dict[int, Message] = {}
        self.messages = messages
        # These know the messages and not this, which would be a circle: of a queue that is mostly empty, each message
        # makes a new one, which goes with it, and not when the collector comes.
        self.heap = Heap(
            lambda entry: entry[1] in messages,
            lambda: (message.rank for message in messages.values()),
            lambda: len(messages),
        )


class Ready:
    """The messages that can be received. `bytes`: of their data."""

    def __init__(self) -> None:
        self.bytes = 0
        self.messages: dict[int, Message] = {}
        self._types: dict[int, _OfType] = {}
        self._next = self._heap(lambda: (message.rank for message in self.messages.values()))
        self._oldest = self._heap(lambda: ((number, number) for number in self.messages))
        self._lowest = Heap(
            lambda entry: entry[1] in self._types,
            lambda: ((type_, type_) for type_ in self._types),
            lambda: len(self._types),
        )

    def _heap(self, entries: Callable[[], Iterable[tuple[float, int]]]) -> Heap:
        return Heap(lambda entry: entry[1] in self.messages, entries, lambda: len(self.messages))

    def __len__(self) -> int:
        return len(self.messages)

    def get(self, number: int) -> Message | None:
        """If it is there."""
        return self.messages.get(number)

    def rest(self) -> Iterator[Entries | dict[int, Message]]:
        """What there is beside `messages`, for who takes all of it apart."""
        for heap in (self._next, self._oldest, self._lowest):
            yield heap.all
        while self._types:
            of_type = self._types.popitem()[1]
            yield of_type.messages
            yield of_type.heap.all

    def add(self, message: Message) -> None:
        """One more."""
        self.messages[message.id] = message
        self.bytes += len(message.data)
        self._next.push(message.rank)
        self._oldest.push((message.id, message.id))
        of_type = self._types.get(message.type)
        if of_type is None:
            of_type = self._types[message.type] = _OfType()
            self._lowest.push((message.type, message.type))
        of_type.messages[message.id] = message
        of_type.heap.push(message.rank)

    def remove(self, message: Message) -> None:
        """One less."""
        del self.messages[message.id]
        self.bytes -= len(message.data)
        of_type = self._types[message.type]
        del of_type.messages[message.id]
        if not of_type.messages:
            del self._types[message.type]

    def next(self, type_: int = 0) -> Message | None:
        """For who receives this type: 0 any, n that one, -n the lowest that there is up to n."""
        if type_ == 0:
            first = self._next.first()
            return None if first is None else self.messages[first[1]]
        type_ = self._one(type_)
        of_type = self._types.get(type_)
        first = of_type.heap.first() if of_type is not None else None
        return None if first is None else self.messages[first[1]]

    def oldest(self) -> Message | None:
        """Whatever its priority."""
        first = self._oldest.first()
        return None if first is None else self.messages[first[1]]

    def list(self, type_: int, most: int) -> list[Message]:
        """Those that would be received one after the other."""
        if type_ == 0:
            return [self.messages[number] for _, number in self._next.least(most)]
        # Of each type there is one message at least.
        types = [number for _, number in self._lowest.least(most) if number <= -type_] if type_ < 0 else [type_]
        listed: list[Message] = []
        for each in types:
            of_type = self._types.get(each)
            if of_type is not None:
                listed += [of_type.messages[number] for _, number in of_type.heap.least(most - len(listed))]
        return listed

    def _one(self, type_: int) -> int:
        if type_ > 0:
            return type_
        lowest = self._lowest.first()
        return lowest[1] if lowest is not None and lowest[1] <= -type_ else 0
