"""A large message's data as memory that all subscribers of one machine map: what both faces of topics share."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Final

from ipcd_client.primitives import sealed
from ipcd_client.primitives.errors import BadMemory
from ipcd_client.primitives.topics import Data
from ipcd_client.wire.fds import Fd, close_all

MAP: Final = "/ipcd.v1.TopicMemory/Map"
# Messages that a process has mapped at one time, each of which takes a descriptor; more are copied.
MOST: Final = 128

_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def check_room() -> None:
    """Whether there is room for the descriptor and for that of a mapping. Where there is none, the descriptor would be
    lost on its way, and the connection that brings it with it.

    Raises:
        OSError: there is none.
    """
    with Fd(os.eventfd(0, os.EFD_CLOEXEC)), Fd(os.eventfd(0, os.EFD_CLOEXEC)):
        pass


def data(size: int, fds: Sequence[Fd]) -> Data:
    """Of the descriptors that came with the daemon's answer to Map; `size` in bytes, as the delivery says.

    Raises:
        BadMemory, OSError: the memory is not what it has to be, or cannot be mapped.
    """
    try:
        if len(fds) != 1:
            raise BadMemory(f"{len(fds)} descriptors came with a message, and not one")
        if len(_mapped) >= MOST:
            return sealed.copied(fds[0], size)
        view = sealed.mapped(fds[0], size)
        assert isinstance(view.obj, mmap.mmap)
        _mapped.add(view.obj)
        return view
    finally:
        close_all(fds)
