"""What the daemon keeps by name, for any process of any node: queues, locks, values, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ipcd.primitives import lock, pipe, queue, semaphore, signal, topic, value

if TYPE_CHECKING:
    from ipcd.primitives.host import Adds

# Each adds its servicer to the daemon's server.
ALL: Final[tuple[Adds, ...]] = (
    lock.add,
    pipe.add,
    queue.add,
    semaphore.add,
    signal.add,
    topic.add,
    value.add,
)
