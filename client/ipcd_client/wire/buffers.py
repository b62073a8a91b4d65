"""Memory of large payloads, used again: to touch fresh pages costs several times what copying into known ones does."""

from __future__ import annotations

import threading
from typing import Final

# What is kept in all, in bytes, and the largest that is.
KEPT: Final = 16 << 20
_LARGEST: Final = 8 << 20

_lock = threading.Lock()
_free: dict[int, list[bytearray]] = {}  # by the power of two that they have room for
_kept = 0


def _room(size: int) -> int:
    return 1 << max(size - 1, 1).bit_length()


def take(size: int) -> bytearray:
    """A bytearray of `size` bytes, with anything in it."""
    global _kept
    room = _room(size)
    with _lock:
        same = _free.get(room)
        buffer = same.pop() if same else None
        if buffer is not None:
            _kept -= room
    if buffer is None:
        return bytearray(size)
    # A bytearray gives its memory back only where less than half of it is used: here never.
    if len(buffer) > size:
        del buffer[size:]
    elif len(buffer) < size:
        buffer.extend(bytes(size - len(buffer)))
    return buffer


def give(buffer: bytearray) -> None:
    """Nobody looks at it any more: it may be used again."""
    global _kept
    room = _room(len(buffer))
    if room > _LARGEST:
        return
    with _lock:
        if _kept + room <= KEPT:
            _free.setdefault(room, []).append(buffer)
            _kept += room


def drop() -> None:
    """Keeps nothing."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0


def after_fork() -> None:
    """In a child: the lock may be held by a thread that is not here."""
    global _lock
    _lock = threading.Lock()
