"""Inputs out of others, by damage that parsers are known to be weak to."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

_NUMBERS: Final = tuple(
    number.to_bytes(size, "little", signed=True)
    for size, numbers in {
        1: (-1, 0, 1, 16, 127, -128),
        2: (-1, 0, 1, 255, 256, 1024, 1025, 4096, 32767, -32768),
        4: (-1, 0, 1, 4096, 65535, 65536, 1 << 20, 1 << 30, (1 << 31) - 1, -(1 << 31)),
        8: (-1, 0, 1, 1 << 32, 1 << 53, (1 << 63) - 1, -(1 << 63)),
    }.items()
    for number in numbers
)


class Mutator:
    """`words`: what is worth putting somewhere."""

    def __init__(self, random: Random, words: Sequence[bytes], largest: int) -> None:
        self._random = random
        self._words = words or _NUMBERS
        self._largest = largest

    def of(self, pool: Sequence[bytes]) -> bytes:
        """One of the pool, changed in a few places."""
        random = self._random.random
        data = bytearray(pool[int(random() * len(pool))])
        for _ in range(1 + int(random() * random() * 6)):
            self._change(data, pool)
        return bytes(data[: self._largest])

    def _change(self, data: bytearray, pool: Sequence[bytes]) -> None:
        random = self._random.random
        size = len(data)
        at = int(random() * (size + 1))
        kind = int(random() * 9)
        if kind == 0 and size:
            data[at % size] ^= 1 << int(random() * 8)
        elif kind == 1 and size:
            data[at % size] = int(random() * 256)
        elif kind == 2:
            number = _NUMBERS[int(random() * len(_NUMBERS))]
            data[at : at + len(number)] = number
        elif kind == 3:
            data[at:at] = self._words[int(random() * len(self._words))]
        elif kind == 4:
            del data[at : at + 1 + int(random() * random() * size)]
        elif kind == 5:
            # A piece again, perhaps many times.
            piece = bytes(data[at : at + 1 + int(random() * 24)])
            data[at:at] = piece * (1 if random() < 0.8 else 1 + int(random() * 64))
        elif kind == 6:
            other = pool[int(random() * len(pool))]
            begin = int(random() * len(other))
            data[at : at if random() < 0.5 else size] = other[begin : begin + 1 + int(random() * len(other))]
        elif kind == 7 and size:
            data[at % size] = (data[at % size] + (1 if random() < 0.5 else 255)) & 255
        else:
            data[at:at] = bytes(int(random() * 256) for _ in range(1 + int(random() * 4)))
