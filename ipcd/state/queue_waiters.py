"""Who wait at a queue, and what they are told once they wait no more. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ipcd.state.queue_message import Message
from ipcd.state.queue_order import Ready


@dataclass(slots=True, eq=False)
class Receiver:
    """Who waits for messages. `lease`: seconds for which they will be held; infinite for who settles them at once."""

    type: int
    most: int
    lease: float
    user: Any = None
    # The place in the order in which they came.
    number: int = 0


class Receivers:
    """Those who wait for messages, in the order in which they came. What comes is offered to the first of each type
    that they want: not to each of those who want another."""

    def __init__(self) -> None:
        self._number = 0
        self._all: dict[Receiver, None] = {}
        self._types: dict[int, dict[Receiver, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Receiver]:
        return iter(self._all)

    def add(self, receiver: Receiver) -> None:
        """It comes last."""
        self._number += 1
        receiver.number = self._number
        self._all[receiver] = None
        self._types.setdefault(receiver.type, {})[receiver] = None

    def discard(self, receiver: Receiver) -> None:
        """Nothing happens if it does not wait."""
        if receiver not in self._all:
            return
        del self._all[receiver]
        of_type = self._types[receiver.type]
        del of_type[receiver]
        if not of_type:
            del self._types[receiver.type]

    def first(self, ready: Ready) -> Receiver | None:
        """The first for whom there is something."""
        firsts = (next(iter(each)) for type_, each in self._types.items() if ready.next(type_) is not None)
        return min(firsts, key=_number, default=None)


def _number(receiver: Receiver) -> int:
    return receiver.number


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
