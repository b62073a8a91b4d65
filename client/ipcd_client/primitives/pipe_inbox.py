"""What has come to a reader of a pipe, and waits for its program."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

# A writer hears of what was taken when it is so much; or when nothing is left.
REPORT: Final = 256 << 10
# Bytes from which on a piece is kept as it came, and up to which smaller ones are joined.
_LARGE: Final = 4 << 10
_JOINED: Final = 64 << 10


class Source:
    """One writer, at a reader."""

    def __init__(self) -> None:
        self.received = 0
        self.taken = 0
        self.reported = 0
        self.closed = False
        self.finished = False  # it has closed, and all has come
        self.news = asyncio.Event()  # something is to be reported, or nothing more will come


class _Piece:
    """What came one after the other, of one writer or several: small pieces by themselves would cost some hundred
    times their bytes."""

    __slots__ = ("_data", "_ends", "_first", "_sources", "_start")

    def __init__(self, source: Source, data: bytes) -> None:
        # One that can grow, or the bytes as they came.
        self._data: bytearray | bytes = bytearray(data) if len(data) < _LARGE else data
        self._sources = [source]
        self._ends = array("I", (len(data),))  # of what each of those has sent
        self._start = 0  # what is before this was taken,
        self._first = 0  # with all of these

    def __len__(self) -> int:
        return len(self._data) - self._start

    def joined(self, source: Source, data: bytes) -> bool:
        """Whether this has been added to it."""
        if not isinstance(self._data, bytearray) or len(data) >= _LARGE or len(self._data) + len(data) > _JOINED:
            return False
        self._data += data
        if self._sources[-1] is source:
            self._ends[-1] = len(self._data)
        else:
            self._sources.append(source)
            self._ends.append(len(self._data))
        return True

    def take(self, most: int) -> tuple[memoryview, Iterator[tuple[Source, int]]]:
        """Up to so many bytes, and how many of whom. One of which all is taken is not to be added to any more."""
        begin, end = self._start, min(len(self._data), self._start + most)
        part = memoryview(self._data)[begin:end]
        if end < len(self._data) and isinstance(self._data, bytearray):
            # It may grow, which it cannot while anybody has a view of it.
            part = memoryview(bytes(part))
        self._start = end
        return part, self._passed(begin, end)

    def _passed(self, begin: int, end: int) -> Iterator[tuple[Source, int]]:
        while begin < end:
            source, until = self._sources[self._first], min(end, self._ends[self._first])
            if until == self._ends[self._first]:
                self._first += 1
            yield source, until - begin
            begin = until


class Inbox:
    """What has come and was not taken yet, for the loop that receives and the thread that reads. `notify` is called on
    the loop whenever something has changed."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.size = 0
        # There is nobody left from whom anything could come.
        self.ended = False
        self.error: Exception | None = None
        # Somebody will look soon whether everything was taken.
        self.looked_at = False
        self._torn: Exception | None = None
        self._notify = notify
        self._lock = threading.Lock()
        self._pieces: deque[_Piece] = deque()

    def put(self, source: Source, data: bytes) -> None:
        """One piece more."""
        with self._lock:
            # Only to the last one: what one writer has sent after another does not come before that.
            if not self._pieces or not self._pieces[-1].joined(source, data):
                self._pieces.append(_Piece(source, data))
            self.size += len(data)
        self._notify()

    def state(self, *, ended: bool, error: Exception | None) -> None:
        """Whether more can come."""
        if ended != self.ended or error is not self.error:
            self.ended, self.error = ended, error
            self._notify()

    def tear(self, error: Exception) -> None:
        """Something is missing: whoever reads is told so, once, when what has come is taken."""
        self._torn = error
        self._notify()

    @property
    def over(self) -> bool:
        """It is the end of the file, once all is taken."""
        return self.ended and self._torn is None

    def at_end(self) -> bool:
        """Whether it is the end of the file; to be asked where there is nothing to take.

        Raises:
            PrimitiveError, CallFailed: the pipe is lost, or something of what was written is.
        """
        torn, self._torn = self._torn, None
        if torn is not None:
            raise torn
        if self.error is not None:
            raise self.error
        return self.ended

    def take(self, most: int) -> tuple[list[memoryview], bool]:
        """Up to so many bytes; and whether the writers are to hear of it (`Reader.took`)."""
        parts: list[memoryview] = []
        due = False
        with self._lock:
            while most and self._pieces:
                piece = self._pieces[0]
                part, passed = piece.take(most)
                for source, count in passed:
                    source.taken += count
                    due |= source.taken - source.reported >= REPORT
                if not piece:
                    self._pieces.popleft()
                most -= len(part)
                self.size -= len(part)
                parts.append(part)
            due |= not self.size and not self.looked_at
        return parts, due
