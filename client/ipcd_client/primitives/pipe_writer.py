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
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Broken, Lost, TimedOut, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_hold import PAUSES, Hold
from ipcd_client.primitives.pipe_reader import PIECE, WINDOW, WRITERS
from ipcd_client.rpc.failure import CallFailed

# Seconds for a reader to answer first, and for the home to see that one is gone.
REACH: Final = 10.0
# Seconds for a reader to say that it has all; and in all, however often others close meanwhile and give back what they
# have.
LINGER: Final = 30.0
LINGER_ALL: Final = 60.0
# Seconds for a reader to answer, however little is left of the time to open.
_LEAST: Final = 1.0


class _Give:
    """The connection with one reader. `window` is 0 until it has answered, and when it takes no more."""

    def __init__(self, reader: pipe_pb2.PipeAddress) -> None:
        self.reader = reader
        self.call: Any = None
        self.task: asyncio.Task[None] | None = None
        self.window = 0
        self.closed = False  # it has said so
        self.busy = False  # a write to it has not returned
        self.ending = False  # it is given no more
        self.ended = False  # it knows that it has all
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
        # Readers whose connection has ended, and who may still be in the home's news; why, where that is a fault.
        self._left: dict[bytes, Exception | None] = {}
        self._lost = 0  # bytes that were at readers who are gone, or on their way
        self._stirred = asyncio.Event()
        self._hold: Hold | None = None
        self._finishing = False
        self._closing = False
        # Each writes to one reader at a time: as many as wait for readers that take nothing, and one.
        self._pumps: list[asyncio.Task[None]] = []

    async def open(self, wait: float | None) -> None:
        """Returns when a reader has answered; with a `wait` of 0, when there is one.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: there is none, or it cannot be called.
        """
        loop = asyncio.get_running_loop()
        limit = None if wait is None else loop.time() + wait
        try:
            request = pipe_pb2.PipeOpen(side=pipe_pb2.PIPE_SIDE_WRITE)
            self._hold = Hold(self._place, request, self._look)
            await self._hold.open(wait)
            if wait != 0:
                # A reader that came last of all is to have some time, too.
                await self._until_reached(None if limit is None else max(limit, loop.time() + _LEAST))
        except BaseException:
            await self._end()
            raise

    async def _until_reached(self, limit: float | None) -> None:
        try:
            async with asyncio.timeout_at(limit):
                while self._gives and not any(give.window for give in self._gives.values()):
                    await self._until_stirred()
        except TimeoutError:
            raise TimedOut(f"no reader of the pipe {self._place.name} has answered within the time") from None
        if self.broken and self.error is not None:
            raise self.error

    def feed(self, data: bytes) -> None:
        """What is to be given, at most PIECE bytes, which stay together."""
        self._queue.append(data)
        self.size += len(data)
        self._stirred.set()

    async def close(self) -> None:
        """Returns when readers have all.

        Raises:
            Broken: there is nobody who would take it, or a reader was lost with some of it.
        """
        try:
            self._finishing = True
            loop, left = asyncio.get_running_loop(), LINGER_ALL
            while left > 0 and await self._all_given(min(LINGER, left)):
                gives, begin = list(self._gives.values()), loop.time()
                limit = begin + min(LINGER, left)
                await asyncio.gather(*(self._finish(give, limit) for give in gives))
                left -= loop.time() - begin
                # What one that has closed meanwhile gave back, others are to have: those that have come since then,
                if self.broken or not (self._queue or any(give.kept for give in self._gives.values())):
                    break
                # and those that have ended, which are to be called again.
                for give in gives:
                    if not give.closed:
                        self._left.pop(give.reader.key, None)
                self._look()
            unsent = bool(self._queue)
        finally:
            await self._end()
        if unsent:
            words = "nobody reads the pipe {} any more" if self.broken else "no reader of the pipe {} takes anything"
            raise self.error or Broken(words.format(self._place.name))
        if self._lost:
            raise Broken(f"a reader of the pipe {self._place.name} is gone, and {self._lost} bytes may be with it")

    async def abandon(self) -> None:
        """The same, without waiting: what readers do not have is lost."""
        await self._end()

    async def _end(self) -> None:
        self._closing = True
        tasks = [*self._pumps, *(give.task for give in self._gives.values() if give.task is not None)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._hold is not None:
            await self._hold.close()
        await self._place.close()

    async def _all_given(self, linger: float) -> bool:
        """Waits until nothing is left to be given. A reader's program may be as slow as it likes; False: for `linger`
        seconds no write to any reader has returned, so their processes take nothing at all."""
        loop = asyncio.get_running_loop()
        since, size = loop.time(), self.size
        while self._queue and not self.broken:
            stuck = bool(self._gives) and all(give.busy for give in self._gives.values())
            # News of other sorts is none of them.
            if not stuck or self.size != size:
                since, size = loop.time(), self.size
            try:
                async with asyncio.timeout_at(since + linger if stuck else None):
                    await self._until_stirred()
            except TimeoutError:
                return False
        return True

    async def _finish(self, give: _Give, limit: float) -> None:
        if give.task is None:
            return
        give.ending = True
        if give.window:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(limit):
                    await self._end_call(give)
                    await asyncio.wait({give.task})
        # It has ended, never answered, or does not in time: what it has not taken counts as lost.
        give.task.cancel()
        await asyncio.wait({give.task})

    async def _end_call(self, give: _Give) -> None:
        while give.busy:
            await self._until_stirred()
        give.ended = True
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await give.call.done_writing()

    # -- readers ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Takes up the news of the home."""
        hold = self._hold
        if hold is None or self._closing:
            return
        if hold.attached:
            told = {reader.key: reader for reader in hold.news.readers}
            self._left = {key: why for key, why in self._left.items() if key in told}
            for key, give in list(self._gives.items()):
                if key not in told and not give.window and give.task is not None:
                    give.task.cancel()  # it never answered, and is gone
            for key, reader in told.items():
                if len(self._gives) >= WRITERS:
                    break  # a pipe has no more ends, whatever its home says
                if key not in self._gives and key not in self._left:
                    give = self._gives[key] = _Give(reader)
                    give.task = asyncio.get_running_loop().create_task(self._hand(give))
        self._state()

    def _state(self) -> None:
        """Those whose connection lives count, whatever the home says, as a daemon that was just started does not know
        them yet."""
        hold = self._hold
        assert hold is not None
        faults = [why for why in self._left.values() if why is not None]
        # The home says that they are there, and none can be called.
        unreachable = hold.attached and 0 < len(faults) == hold.news.others
        gone = (hold.deserted or unreachable) and not any(give.window for give in self._gives.values())
        broken = hold.removed or gone
        error = hold.error or (faults[0] if unreachable else None)
        if broken != self.broken or error is not self.error:
            self.broken, self.error = broken, error
            self._notify()
        self._stir()

    async def _hand(self, give: _Give) -> None:
        """Follows what one reader takes, until it is gone."""
        fault: Exception | None = None
        try:
            reader = give.reader
            target = f"ipcd://{quote(reader.node, safe='')}/{quote(reader.server, safe='')}"
            async with aio.channel(target, node=self._place.path) as channel:
                credit = await self._first_credit(give, pipe_pb2_grpc.PipeReaderStub(channel))
                # More than a reader of ours ever grants, or less than is given at once, is nobody's to ask for.
                if credit.window < PIECE:
                    raise BadRequest(f"a reader of the pipe {self._place.name} takes only {credit.window} bytes")
                give.window = min(credit.window, WINDOW)
                self._staff()
                self._state()
                while not give.closed and (credit := await give.call.read()) is not EOF:
                    self._credited(give, credit)
                if give.ended and not give.closed:
                    give.kept.clear()  # it has all
        except grpc.RpcError as error:
            status: Any = error
            fault = from_status(status.code(), status.details() or "")
        except asyncio.InvalidStateError:
            pass
        except IpcdError as error:
            fault = error
        finally:
            self._ended(give, fault)

    async def _first_credit(self, give: _Give, stub: Any) -> pipe_pb2.PipeCredit:
        """The first answer of a reader. The news may be here before the catalog has its server, so it is tried again.

        Raises:
            grpc.RpcError, Lost: it cannot be called.
        """
        end = asyncio.get_running_loop().time() + REACH
        words = "no answer"
        try:
            async with asyncio.timeout_at(end):
                for attempt in range(1 << 30):
                    give.call = stub.Give()
                    try:
                        await give.call.write(pipe_pb2.PipeGive(key=give.reader.key))
                        credit: Any = await give.call.read()
                    except grpc.RpcError as error:
                        status: Any = error
                        if status.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        words = status.details() or ""
                        await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                    else:
                        if credit is EOF:
                            raise Lost(f"a reader of the pipe {self._place.name} has ended the call")
                        first: pipe_pb2.PipeCredit = credit
                        return first
        except TimeoutError:
            pass
        raise CallFailed(
            grpc.StatusCode.UNAVAILABLE,
            f"a reader of the pipe {self._place.name}, on node {give.reader.node}, cannot be reached: {words}",
        )

    def _credited(self, give: _Give, credit: pipe_pb2.PipeCredit) -> None:
        give.took(credit.taken)
        if credit.closed:
            give.closed = True
            give.window = 0
            self._queue.extendleft(reversed(give.kept))
            back = sum(map(len, give.kept))
            self.size += back
            self._sent(-back)
            give.kept.clear()
        self._stir()

    def _ended(self, give: _Give, fault: Exception | None) -> None:
        key = give.reader.key
        answered, give.window = give.window > 0, 0
        del self._gives[key]
        self._lost += sum(map(len, give.kept))
        self._left[key] = fault
        if fault is not None and answered:
            # Its process may have ended, which the home sees as well; if it does not, only the connection has.
            self._left[key] = None
            asyncio.get_running_loop().call_later(REACH, self._still_there, key, fault)
        self._look()

    def _still_there(self, key: bytes, fault: Exception) -> None:
        if key in self._left and not self._closing:
            self._left[key] = fault
            self._state()

    # -- bytes ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            give = self._next() if self._queue else None
            if give is None:
                await self._until_stirred()
                continue
            data = self._gathered()
            self.size -= len(data)
            give.kept.append(data)
            give.given += len(data)
            self._sent(len(data))
            await self._write(give, data)
            if not self._queue or self._finishing:
                self._stir()

    async def _write(self, give: _Give, data: bytes) -> None:
        give.busy = True
        self._staff()
        if self._finishing:
            self._stir()
        try:
            await give.call.write(pipe_pb2.PipeGive(data=data))
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # it is gone
        except asyncio.CancelledError:
            # Of the call, whose reader has closed; or of this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            give.busy = False

    def _staff(self) -> None:
        """Somebody is to write to the other readers while a write to one does not return."""
        busy = sum(give.busy for give in self._gives.values())
        if busy == len(self._pumps) and busy < len(self._gives):
            self._pumps.append(asyncio.get_running_loop().create_task(self._run()))

    def _gathered(self) -> bytes:
        """What waits, as much of it as one message takes: a message costs more than its bytes."""
        pieces = [self._queue.popleft()]
        size = len(pieces[0])
        while self._queue and size + len(self._queue[0]) <= PIECE:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self) -> _Give | None:
        """The reader that has least to read, of those that take more."""
        able = [
            give
            for give in self._gives.values()
            if give.waiting + PIECE <= give.window and not give.busy and not give.ending
        ]
        return min(able, key=lambda give: give.waiting, default=None)

    def _stir(self) -> None:
        self._stirred.set()

    async def _until_stirred(self) -> None:
        await self._stirred.wait()
        self._stirred.clear()
