"""What the handles of semaphores for threads and those for loops have in common: requests built, replies read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.primitives.errors import BadRequest, Lost, from_status

if TYPE_CHECKING:
    from typing import TypeAlias

H = TypeVar("H")

KIND: Final = "semaphore"
# A semaphore never has more.
MOST: Final = (1 << 31) - 1
_HOST_MOST: Final = 32


class Named:
    """A semaphore as an operation on several names it: `text`, NAME or NAME@NODE, and `value`, with how many it is made
    where there is none; None: it has to be there."""

    def __init__(self, text: str, value: int | None, *, given: bool) -> None:
        if value is not None and not 0 <= value <= MOST:
            raise BadRequest(f"a semaphore has from 0 to {MOST}, not {value}")
        self.text = text
        self.value = value
        # Over a gateway the node does not see the process that calls.
        self._host = f"{socket.gethostname()[:_HOST_MOST]}/" if given else ""

    def request(
        self, operations: Iterable[pb.SemaphoreOperation], wait: float | None, part: str
    ) -> pb.SemaphoreRequest:
        """One operation. `part`: which of the process's threads or tasks asks."""
        return pb.SemaphoreRequest(
            name=self.text,
            value=self.value,
            operations=operations,
            wait=wait,
            party=f"{self._host}{os.getpid()}.{part}",
        )


# Semaphores, or their names, and what is done with each: below 0 takes so many, above puts so many in, 0 waits until
# there are none. A mapping, or pairs in their order.
Operations: TypeAlias = "Mapping[Any, int] | Iterable[tuple[Named | str, int]]"


def takes(n: int) -> list[pb.SemaphoreOperation]:
    """Takes `n`."""
    return [pb.SemaphoreOperation(delta=-_counted(n))]


def puts(n: int) -> list[pb.SemaphoreOperation]:
    """Puts `n` in, or gives them back."""
    return [pb.SemaphoreOperation(delta=_counted(n))]


def _counted(n: int) -> int:
    if not 1 <= n <= MOST:
        raise BadRequest(f"from 1 to {MOST} of a semaphore are taken or put in at a time, not {n}")
    return n


def several(operations: Operations) -> list[pb.SemaphoreOperation]:
    """The same for several."""
    pairs: Iterable[Any] = operations.items() if isinstance(operations, Mapping) else operations
    listed = [
        pb.SemaphoreOperation(name=one.text, delta=delta, value=one.value)
        if isinstance(one, Named)
        else pb.SemaphoreOperation(name=one, delta=delta)
        for one, delta in pairs
    ]
    if not listed:
        raise BadRequest("an operation on several semaphores names at least one")
    return listed


def last(held: list[tuple[H, int]], n: int, text: str) -> list[tuple[H, int, bool]]:
    """Takes `n` off what is held, the last first: the hold, how many of it, and whether that is all of it.

    Raises:
        BadRequest: there are not so many; nothing was taken.
    """
    there = sum(count for _, count in held)
    if there < n:
        raise BadRequest(f"{n} of the semaphore {text} cannot be released: this handle has taken {there}")
    taken = []
    while n:
        hold, count = held.pop()
        if count > n:
            held.append((hold, count - n))
        taken.append((hold, min(count, n), count <= n))
        n -= min(count, n)
    return taken


def lost(error: Any) -> Lost:
    """What it means for a hold that its call has ended with an error."""
    failure = from_status(error.code(), error.details() or "")
    if isinstance(failure, Lost):
        return failure
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Lost(f"the semaphore's node does not answer any more: {failure}")
    return Lost(str(failure))


def forked(pid: int) -> Lost:
    """What is held belongs to the process that asked for it."""
    return Lost(f"the process {pid} holds it, of which this one, {os.getpid()}, is a fork")
