"""One descriptor that stands for several, for whoever can watch only one of a wire."""

from __future__ import annotations

import select
from collections.abc import Mapping


class Watch:
    """An epoll within which the watched descriptors change, while others watch `fileno`. `set` and `close` are called
    by one thread at a time.

    Raises:
        OSError: there is no descriptor for it.
    """

    __slots__ = ("_epoll", "_masks")

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._masks: dict[int, int] = {}

    def fileno(self) -> int:
        """Readable while one of the watched is ready. -1 once closed, which any thread may find."""
        try:
            return self._epoll.fileno()
        except ValueError:
            return -1

    def set(self, wanted: Mapping[int, int]) -> None:
        """Watches these, each with its mask of epoll's events, and no others.

        To be called before a descriptor is let go of: where the peer has it too, closing it would not take it out.
        """
        for fd in self._masks.keys() - wanted.keys():
            self._epoll.unregister(fd)
        for fd, mask in wanted.items():
            if fd not in self._masks:
                self._epoll.register(fd, mask)
            elif self._masks[fd] != mask:
                self._epoll.modify(fd, mask)
        self._masks = dict(wanted)

    def close(self) -> None:
        """Watches nothing any more."""
        self._epoll.close()
