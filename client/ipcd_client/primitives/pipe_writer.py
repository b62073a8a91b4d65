"""The end of a pipe that writes: it calls the readers' servers; on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import grpc
from grpc.aio import EOF

from ipcd_client import aio
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import Broken
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_hold import Hold
from ipcd_client.primitives.pipe_reader import PIECE

# Seconds for a reader to say that it has all.
LINGER: Final = 30.0


class _Give:
    """The connection with one reader. `window` is 0 until it has answered."""

    def __init__(self) -> None:
        self.call: Any = None
        self.task: asyncio.Task[None] | None = None
        self.window = 0
        self.given = 0
        self.taken = 0
        self.kept: deque[bytes] = deque()  # given, and not taken yet

    @property
    def waiting(self) -> int:
        """Bytes at the reader, or on their way to it."""
        return self.given - self.taken

    def took(self, taken: int) -> None:
        """So many bytes in all."""
        while self.kept and taken >= self.taken + len(self.kept[0]):
            self.taken += len(self.kept.popleft())
        if self.kept and taken > self.taken:
            self.kept[0] = self.kept[0][taken - self.taken :]
            self.taken = taken


class Writer:
    """`open`, then `feed`, then `close`. `sent` is called with the number of bytes that a reader was given; `notify`
    when `broken` or `error` have changed."""

    def __init__(self, place: LoopPlace, sent: Callable[[int], None], notify: Callable[[], None]) -> None:
        self.broken = False
        self.error: Exception | None = None
        # Bytes fed and not given.
        self.size = 0
        self._place = place
        self._sent = sent
        self._notify = notify
        self._queue: deque[bytes] = deque()
        self._gives: dict[bytes, _Give] = {}
        self._left: set[bytes] = set()  # whose connection has ended, and who may still be in the home's news
        self._stirred = asyncio.Event()
        self._hold: Hold | None = None
        self._closing = False
        self._pump: asyncio.Task[None] | None = None

    async def open(self, wait: float | None) -> None:
        """Returns when there is a reader.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: there is none.
        """
        try:
            request = pipe_pb2.PipeOpen(side=pipe_pb2.PIPE_SIDE_WRITE)
            self._hold = Hold(self._place, request, self._look)
            await self._hold.open(wait)
        except BaseException:
            await self._end()
            raise
        self._pump = asyncio.get_running_loop().create_task(self._run())

    def feed(self, data: bytes) -> None:
        """What is to be given, at most PIECE bytes, which stay together."""
        self._queue.append(data)
        self.size += len(data)
        self._stirred.set()

    async def close(self) -> None:
        """Returns when readers have all.

        Raises:
            Broken: there is nobody who would take it.
        """
        try:
            while self._queue and not self.broken:
                await self._until_stirred()
            broken = bool(self._queue)
            await asyncio.gather(*(self._finish(give) for give in list(self._gives.values())))
        finally:
            await self._end()
        if broken:
            raise Broken(f"nobody reads the pipe {self._place.name} any more")

    async def abandon(self) -> None:
        """The same, without waiting: what readers do not have is lost."""
        await self._end()

    async def _end(self) -> None:
        self._closing = True
        tasks = [task for task in (self._pump, *(give.task for give in self._gives.values())) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._hold is not None:
            await self._hold.close()
        await self._place.close()

    async def _finish(self, give: _Give) -> None:
        if give.task is None:
            return
        if not give.window:
            give.task.cancel()
        else:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await give.call.done_writing()
        await asyncio.wait({give.task}, timeout=LINGER)

    # -- readers ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Takes up the news of the home."""
        hold = self._hold
        if hold is None or self._closing:
            return
        if hold.attached:
            told = {reader.key: reader for reader in hold.news.readers}
            self._left &= told.keys()
            for key, give in list(self._gives.items()):
                if key not in told and not give.window and give.task is not None:
                    give.task.cancel()  # it never answered, and is gone
            for key, reader in told.items():
                if key not in self._gives and key not in self._left:
                    give = self._gives[key] = _Give()
                    give.task = asyncio.get_running_loop().create_task(self._hand(give, reader))
        self._state()

    def _state(self) -> None:
        """Those whose connection lives count, whatever the home says, as a daemon that was just started does not know
        them yet."""
        hold = self._hold
        assert hold is not None
        gone = hold.removed or hold.error is not None or (hold.attached and not hold.news.others)
        broken = hold.removed or (gone and not any(give.window for give in self._gives.values()))
        if broken != self.broken or hold.error is not self.error:
            self.broken, self.error = broken, hold.error
            self._notify()
        self._stir()

    async def _hand(self, give: _Give, reader: pipe_pb2.PipeAddress) -> None:
        """Follows what one reader takes, until it is gone."""
        try:
            target = f"ipcd://{quote(reader.node, safe='')}/{quote(reader.server, safe='')}"
            async with aio.channel(target, node=self._place.path) as channel:
                stub: Any = pipe_pb2_grpc.PipeReaderStub(channel)
                # The news may be here before the catalog has the server.
                give.call = stub.Give(wait_for_ready=True)
                await give.call.write(pipe_pb2.PipeGive(key=reader.key))
                while (credit := await give.call.read()) is not EOF:
                    give.took(credit.taken)
                    if credit.closed:
                        self._queue.extendleft(reversed(give.kept))
                        self.size += sum(map(len, give.kept))
                        self._sent(-sum(map(len, give.kept)))
                        give.kept.clear()
                        give.window = 0
                        break
                    give.window = give.window or credit.window
                    self._stir()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # it is gone, and what it had with it
        finally:
            give.window = 0
            del self._gives[reader.key]
            self._left.add(reader.key)
            self._look()

    # -- bytes ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            give = self._next() if self._queue else None
            if give is None:
                await self._until_stirred()
                continue
            data = self._queue.popleft()
            self.size -= len(data)
            give.kept.append(data)
            give.given += len(data)
            self._sent(len(data))
            try:
                await give.call.write(pipe_pb2.PipeGive(data=data))
            except (grpc.RpcError, asyncio.InvalidStateError):
                continue  # it is gone
            if not self._queue:
                self._stir()

    def _next(self) -> _Give | None:
        """The reader that has least to read, of those that take more."""
        able = [give for give in self._gives.values() if give.waiting + PIECE <= give.window]
        return min(able, key=lambda give: give.waiting, default=None)

    def _stir(self) -> None:
        self._stirred.set()

    async def _until_stirred(self) -> None:
        await self._stirred.wait()
        self._stirred.clear()
