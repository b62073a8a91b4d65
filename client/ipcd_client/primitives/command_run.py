"""One run of a command, in the process that offers it: between the call and the program's pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from grpc.aio import EOF

from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.primitives.command_pipes import PipeEnd
from ipcd_client.primitives.command_state import CHUNK, STDERR, STDOUT, WINDOW
from ipcd_client.primitives.errors import BadRequest, CannotStart
from ipcd_client.primitives.offer import Offer
from ipcd_client.primitives.wardens import Program, Warden

_SIGNALS: Final = range(1, 65)
# Seconds for a caller to end its requests, when it has been sent all.
_FAREWELL: Final = 1.0
_MAKE: Final[dict[int, tuple[Callable[[bytes], pb.RunReply], pb.RunReply]]] = {
    STDOUT: (lambda data: pb.RunReply(stdout=data), pb.RunReply(stdout_end=True)),
    STDERR: (lambda data: pb.RunReply(stderr=data), pb.RunReply(stderr_end=True)),
}


class _Credit:
    """How many bytes of one output the caller takes. None: as many as there are."""

    def __init__(self, bytes_: int | None) -> None:
        self._left = bytes_
        self._news = asyncio.Event()

    def add(self, more: int) -> None:
        if more and self._left is not None:
            self._left += more
            self._news.set()

    async def some(self) -> int:
        """At least one."""
        while self._left == 0:
            self._news.clear()
            await self._news.wait()
        return CHUNK if self._left is None else self._left

    def spend(self, size: int) -> None:
        if self._left is not None:
            self._left -= size


class Run:
    """`begin`, then `serve`; then, however that has ended, `end`."""

    def __init__(self, offer: Offer, start: pb.RunStart) -> None:
        self._offer = offer
        self._start = start
        self._program: Program | None = None
        self._stdin: PipeEnd | None = None
        self._outputs: dict[int, PipeEnd] = {}
        free = not start.stdout_credit and not start.stderr_credit
        self._credits = {
            STDOUT: _Credit(None if free else start.stdout_credit),
            STDERR: _Credit(None if free else start.stderr_credit),
        }
        self._input: deque[bytes] = deque()
        self._input_size = 0
        self._input_ended = False
        self._input_news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._why = ""

    async def begin(self, warden: Warden) -> None:
        """Starts the program.

        Raises:
            CannotStart: why.
        """
        start = self._start
        theirs: list[int] = []
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.append(null)
            stdin = null
            if not start.no_stdin:
                stdin, ours = os.pipe2(os.O_CLOEXEC)
                theirs.append(stdin)
                self._stdin = PipeEnd(ours)
            ends = {}
            for number, to in ((STDOUT, start.stdout), (STDERR, start.stderr)):
                if to == pb.RunStart.TO_CALLER:
                    reading, ends[number] = os.pipe2(os.O_CLOEXEC)
                    theirs.append(ends[number])
                    self._outputs[number] = PipeEnd(reading)
                else:
                    ends[number] = ends[STDOUT] if to == pb.RunStart.TO_STDOUT and number == STDERR else null
            argv = [*self._offer.command, *start.args]
            fds = (stdin, ends[STDOUT], ends[STDERR])
            self._program = await warden.run(argv, start.env, self._offer.cwd, fds)
        except OSError as error:
            self.close()
            raise CannotStart(f"no pipes for it: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    async def serve(self, context: Any, freed: Callable[[], None]) -> None:
        """Until it has ended and the caller has all of its output. `freed` is called once it runs no more."""
        program = self._program
        assert program is not None
        await context.write(pb.RunReply(started=pb.RunStarted(pid=program.pid, stdin_credit=WINDOW)))
        try:
            async with asyncio.TaskGroup() as group:
                requests = group.create_task(self._requests(context))
                helpers = [requests, group.create_task(self._feed(context))]
                if self._offer.seconds:
                    helpers.append(group.create_task(self._limit()))
                pumps = [group.create_task(self._pump(context, number)) for number in self._outputs]
                code = await asyncio.shield(program.ended)
                how = {"signal": -code} if code < 0 else {"code": code}
                # A task, like the outputs: a caller that reads nothing keeps the call, and not the place.
                last = pb.RunReply(exit=pb.RunExit(reason=self._why, **how))
                pumps.append(group.create_task(self._reply(context, last)))
                # What it has started may write for a while yet.
                await asyncio.wait(pumps, timeout=self._offer.grace)
                await program.forget()
                freed()
                for output in self._outputs.values():
                    output.finish()
                await asyncio.wait(pumps)
                # A caller that sends something just when the call ends may never see its last answers: grpc.aio's does
                # not. One that has them all says so by the end of its requests.
                await asyncio.wait({requests}, timeout=_FAREWELL)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def end(self, freed: Callable[[], None]) -> None:
        """The call is over. What still runs is ended, unless it may outlive it."""
        program = self._program
        assert program is not None
        try:
            if self._stdin is not None:
                self._stdin.close()
            if self._start.detach and not program.ended.done():
                await self._left_alone(program)
            elif not program.ended.done():
                await self.kill()
            await program.forget()
        finally:
            freed()
            self.close()

    async def _left_alone(self, program: Program) -> None:
        drains = [asyncio.ensure_future(self._drain(output)) for output in self._outputs.values()]
        limit = [asyncio.ensure_future(self._limit())] if self._offer.seconds else []
        try:
            await asyncio.shield(program.ended)
            if drains:
                await asyncio.wait(drains, timeout=self._offer.grace)
        finally:
            for task in drains + limit:
                task.cancel()

    @staticmethod
    async def _drain(output: PipeEnd) -> None:
        while await output.read(CHUNK):
            pass

    async def kill(self) -> None:
        """SIGTERM to its process group, and SIGKILL after the grace. Returns when it has ended."""
        program = self._program
        assert program is not None
        with contextlib.suppress(Exception):
            await program.signal(signal.SIGTERM)
            # One that was stopped does not get it otherwise.
            await program.signal(signal.SIGCONT)
            if not (await asyncio.wait({program.ended}, timeout=self._offer.grace))[0]:
                await program.signal(signal.SIGKILL)
            await asyncio.wait({program.ended})

    def close(self) -> None:
        """Its pipes."""
        for end in (self._stdin, *self._outputs.values()):
            if end is not None:
                end.close()

    # -- tasks of a run ---------------------------------------------------------------------------

    async def _limit(self) -> None:
        await asyncio.sleep(self._offer.seconds)
        self._why = f"it ran for {self._offer.seconds:g} s, which is as long as it may"
        await self.kill()

    async def _requests(self, context: Any) -> None:
        assert self._program is not None
        while (request := await context.read()) is not EOF:
            if request.HasField("start"):
                raise BadRequest("a run is started once")
            if request.signal:
                if request.signal not in _SIGNALS:
                    raise BadRequest(f"there is no signal {request.signal}")
                await self._program.signal(request.signal)
            for number, credit, close in (
                (STDOUT, request.stdout_credit, request.stdout_close),
                (STDERR, request.stderr_credit, request.stderr_close),
            ):
                self._credits[number].add(credit)
                if close and number in self._outputs:
                    self._outputs[number].close()
                    self._credits[number].add(1)  # it waits for nothing more
            if request.stdin:
                self._input_size += len(request.stdin)
                if self._input_size > WINDOW:
                    raise BadRequest(f"more standard input than the {WINDOW} bytes that were granted")
                self._input.append(request.stdin)
            self._input_ended |= request.stdin_end
            self._input_news.set()
        self._input_ended = True
        self._input_news.set()

    async def _feed(self, context: Any) -> None:
        pipe = self._stdin
        if pipe is None:
            return
        reads, written = True, 0
        while True:
            while not self._input:
                if self._input_ended:
                    pipe.close()
                    return
                self._input_news.clear()
                await self._input_news.wait()
            data = self._input.popleft()
            if reads and not await pipe.write(memoryview(data)):
                reads = False
                pipe.close()
                await self._reply(context, pb.RunReply(stdin_closed=True))
            self._input_size -= len(data)
            written += len(data)
            if reads and (written >= WINDOW // 4 or not self._input):
                await self._reply(context, pb.RunReply(stdin_credit=written))
                written = 0

    async def _pump(self, context: Any, number: int) -> None:
        pipe, credit = self._outputs[number], self._credits[number]
        data_of, end = _MAKE[number]
        while True:
            data = await pipe.read(await credit.some())
            if not data:
                break
            credit.spend(len(data))
            await self._reply(context, data_of(data))
        await self._reply(context, end)

    async def _reply(self, context: Any, reply: pb.RunReply) -> None:
        async with self._writing:
            await context.write(reply)
