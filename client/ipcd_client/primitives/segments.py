"""Ranges of bytes that one owner holds, as fcntl has them: set over what was there, split, and merged. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ipcd_client.primitives.errors import BadRequest

# No range goes beyond it: that of a length of 0 ends there.
END: Final = 1 << 63


class Segment(NamedTuple):
    """From `start` up to but without `end`."""

    start: int
    end: int
    shared: bool

    def conflicts(self, start: int, end: int, shared: bool) -> bool:
        """Whether somebody else may not have that as long as this is held."""
        return self.start < end and start < self.end and not (shared and self.shared)

    @property
    def length(self) -> int:
        """0: to the end."""
        return 0 if self.end == END else self.end - self.start


def bounds(start: int, length: int) -> tuple[int, int]:
    """The start and the end of a range that somebody asks for.

    Raises:
        BadRequest: there are no such bytes.
    """
    end = start + length if length else END
    if not (0 <= start < END and length >= 0 and end <= END):
        raise BadRequest(f"a range begins at 0 or after it, and ends at 2^63 or before it: {start} and {length} more")
    return start, end


def put(segments: Sequence[Segment], start: int, end: int, shared: bool | None) -> list[Segment]:
    """What is held once a range is held so; None: once it is not held any more. Sorted, without overlaps, and with as
    few as possible, as `segments` has to be."""
    changed: list[Segment] = []
    for one in segments:
        if one.end <= start or end <= one.start:
            changed.append(one)
            continue
        if one.start < start:
            changed.append(Segment(one.start, start, one.shared))
        if end < one.end:
            changed.append(Segment(end, one.end, one.shared))
    if shared is not None:
        changed.append(Segment(start, end, shared))
    changed.sort()
    merged: list[Segment] = []
    for one in changed:
        if merged and merged[-1].end == one.start and merged[-1].shared == one.shared:
            merged[-1] = Segment(merged[-1].start, one.end, one.shared)
        else:
            merged.append(one)
    return merged
