"""What the daemon keeps by name, for any process of any node: queues, locks, values, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ipcd_client.aio.dispatch import Server as Dispatcher

    from ipcd.primitives.host import Adds, Keeper


def _signal(keeper: Keeper, server: Dispatcher) -> Any:
    from ipcd.primitives.signal import add

    return add(keeper, server)


# Each adds its servicer to the daemon's server.
ALL: Final[tuple[Adds, ...]] = (_signal,)
