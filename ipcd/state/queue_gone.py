"""What was thrown away of a queue, on its way out of memory. Pure.

It is gone from the queue at once, and takes time for each message to be freed: whoever frees it does so a piece at a
time, and lets others go on in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ipcd.state.queue_message import Message
from ipcd.state.queue_order import Ready, Timed
from ipcd.state.quota import Shares

# Messages, or what else there is of them, of one piece: some milliseconds.
PIECE: Final = 1024


class Gone:
    """It counts for its owners until it is freed."""

    def __init__(self, shares: Shares, *parts: Ready | Timed) -> None:
        self._shares = shares
        self._parts = parts
        self._count = sum(map(len, parts))

    def __len__(self) -> int:
        """How many messages these were."""
        return self._count

    def ids(self) -> list[int]:
        """Of all that are not freed."""
        return [number for part in self._parts for number in part.messages]

    def pieces(self) -> Iterator[None]:
        """Frees it, one piece for each time that it is asked for the next."""
        for part in self._parts:
            while part.messages:
                for _ in range(min(PIECE, len(part.messages))):
                    message = part.messages.popitem()[1]
                    self._shares.give(message.owner, message.cost)
                yield
            done = 0
            for rest in part.rest():
                while rest:
                    done += _shortened(rest, PIECE - done)
                    if done >= PIECE:
                        yield
                        done = 0


def _shortened(what: dict[int, Message] | list[tuple[float, int]], most: int) -> int:
    """By so many, or as many as there are: how many."""
    count = min(most, len(what))
    if isinstance(what, list):
        del what[-count:]
    else:
        for _ in range(count):
            what.popitem()
    return count
