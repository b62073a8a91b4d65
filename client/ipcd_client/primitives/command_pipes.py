"""Our ends of a program's pipes, on an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

_CHUNK: Final = 64 << 10


class PipeEnd:
    """One end, which it owns."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._waiting: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.drained = asyncio.Event()

    async def read(self, most: int) -> bytes:
        """The next of it; none at its end. After `finish` its end is where it is empty."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, min(most, _CHUNK))
            except BlockingIOError:
                if self.drained.is_set():
                    break
                await self._until(self._loop.add_reader, self._loop.remove_reader)
        return b""

    async def write(self, data: memoryview) -> bool:
        """Writes all of it. False if nobody reads."""
        while data:
            if self._fd < 0:
                return False
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
            except BrokenPipeError:
                return False
        return True

    def finish(self) -> None:
        """Whoever has the other end now is not waited for."""
        self.drained.set()
        self._wake()

    def close(self) -> None:
        """Closes it. Who reads finds its end."""
        if self._fd >= 0:
            # Taken off the loop before its number is another file's.
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None:
            settled(self._waiting)

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        fd = self._fd
        self._waiting = self._loop.create_future()
        add(fd, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._fd == fd:
                remove(fd)


def settled(future: asyncio.Future[None]) -> None:
    """It is done, if it was not."""
    if not future.done():
        future.set_result(None)


async def readable(fd: int) -> None:
    """Until there is something to read. Of a regular file there always is."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(fd, settled, ready)
    except PermissionError:
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)
