"""Takes an input apart: choices that a target makes by its first bytes, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Script:
    """Front to back. Behind the end everything is 0."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """An unsigned number of so many bytes, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.number() % len(choices)]

    def take(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece

    def block(self) -> bytes:
        """As many bytes as the next two say."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def blocks(*parts: bytes) -> bytes:
    """What `block` takes apart again."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)
