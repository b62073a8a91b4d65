"""A message of a queue, as it is in memory, and where a durable queue writes it down. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ipcd import limits
from ipcd.state.quota import Owner


@dataclass(slots=True, eq=False)
class Message:
    """One. `owner`: whose quota it counts for."""

    priority: int
    type: int
    data: bytes
    owner: Owner
    sent: float = 0.0
    id: int = 0
    # Of its last delivery; 0 before the first.
    tag: int = 0
    deliveries: int = 0
    held: bool = False
    # Of one that is held, the end of its lease; of a delayed one, when it is due; else 0.
    until: float = 0.0

    @property
    def rank(self) -> tuple[int, int]:
        """The least is the next."""
        return (-self.priority, self.id)

    @property
    def cost(self) -> int:
        """What it counts for in its owner's quota."""
        return len(self.data) + limits.QUEUE_OVERHEAD


def cost(messages: Iterable[Message]) -> int:
    """Of several."""
    return sum(message.cost for message in messages)


class Kept(Protocol):
    """Where a durable queue's messages are written down, in the order of the calls."""

    def put(self, queue: str, message: Message) -> None:
        """It is there."""

    def mark(self, queue: str, message: Message) -> None:
        """It is there in another state. This may get lost."""

    def delete(self, queue: str, numbers: Sequence[int]) -> None:
        """The messages of these ids are there no more: all of them, or none yet."""
