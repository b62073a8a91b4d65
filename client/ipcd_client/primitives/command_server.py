"""Offers a command: a server of `ipcd.v1.Command` whose name is the command's."""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Self

from grpc.aio import UsageError

from ipcd_client import aio, errors
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives import command_run, naming
from ipcd_client.primitives.errors import BadRequest, Full, NoSuchName, PrimitiveError, TimedOut
from ipcd_client.primitives.offer import KIND, Offer
from ipcd_client.primitives.waiting import first_request, wait_of
from ipcd_client.primitives.wardens import Warden

# Calls beside those that run or wait: of runs whose caller has not read all of the output, and Describe.
_SPARE: Final = 64
# Seconds after the grace for what runs to have ended, when it stops: else what has started it does not answer.
_ANSWER: Final = 10.0


class Places:
    """So many run at once; who comes when there is no place waits in turn."""

    def __init__(self, offer: Offer) -> None:
        self.running = 0
        self._name = offer.name
        self._most = offer.most
        self._waiting_most = offer.waiting
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Callers that do."""
        return len(self._queue)

    def _busy(self) -> str:
        return f"of the command {self._name} {self.running} run already, of at most {self._most}"

    async def take(self, wait: float | None) -> None:
        """Takes a place within `wait` seconds; None: however long it takes.

        Raises:
            Full: there is none, and the caller waits not at all, or others enough do.
            TimedOut: there was none.
        """
        if self.running < self._most and not self._queue:
            self.running += 1
            return
        if wait == 0:
            raise Full(f"{self._busy()}; wait for a place (--wait), or come again later")
        if len(self._queue) >= self._waiting_most:
            raise Full(f"{self._busy()}, and {len(self._queue)} callers wait for their turn")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(wait):
                await place
        except TimeoutError:
            if not _given(place):
                raise TimedOut(f"no place within {wait:g} s: {self._busy()}") from None
        except asyncio.CancelledError:
            if _given(place):
                self.give()
            raise
        finally:
            if place in self._queue:
                self._queue.remove(place)

    def give(self) -> None:
        """Gives one back."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1


def _given(place: asyncio.Future[None]) -> bool:
    return place.done() and not place.cancelled()


class Servicer(command_pb2_grpc.CommandServicer):
    """Of one command."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.places = Places(offer)
        self.warden = Warden()
        self._started = 0
        self._ending: set[asyncio.Task[None]] = set()
        self._runs: set[command_run.Run] = set()

    async def Run(self, _requests: Any, context: Any) -> None:
        """One run."""
        try:
            await self._run(context)
        except PrimitiveError as error:
            await context.abort(error.code, error.details())
        except IpcdError as error:
            await context.abort(error.code, str(error))
        except UsageError:
            # Of grpc.aio: its caller is gone, and that is no failure of this.
            if not context.cancelled():
                raise

    async def Describe(self, request: pb.DescribeCommandRequest, context: Any) -> pb.CommandInfo:
        """What is offered."""
        try:
            self._named(request.name)
        except PrimitiveError as error:
            await context.abort(error.code, error.details())
        offer = self.offer
        return pb.CommandInfo(
            name=offer.name,
            command=offer.command,
            args=offer.args,
            args_most=offer.args_most,
            env=offer.env,
            detach=offer.detach,
            most=offer.most,
            running=self.places.running,
            waiting=self.places.waiting,
            started=self._started,
            seconds=offer.seconds,
        )

    def _named(self, text: str) -> None:
        name, _ = naming.parse(KIND, text)
        if name != self.offer.name:
            raise NoSuchName(f"{name}: what is offered here is {self.offer.name}")

    async def _run(self, context: Any) -> None:
        request = await first_request(context)
        if not request.HasField("start"):
            raise BadRequest("the first request of a run starts it")
        self._named(request.name)
        start = request.start
        self.offer.check(start.args, start.env, detach=start.detach)
        await self.places.take(wait_of(start))
        freed = _Once(self.places.give)
        run = command_run.Run(self.offer, start)
        try:
            await run.begin(self.warden)
        except BaseException:
            freed()
            raise
        self._started += 1
        self._runs.add(run)
        try:
            await run.serve(context, freed)
        finally:
            # A task of its own: this one is cancelled when the caller is gone.
            self._later(run.end(freed), run)

    def _later(self, coroutine: Coroutine[Any, Any, None], run: command_run.Run) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._ending.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._ending.discard(task)
            self._runs.discard(run)
            if not task.cancelled():
                task.exception()

        task.add_done_callback(ended)

    async def close(self) -> None:
        """Ends what still runs, as it ends with a caller that is gone."""
        if self._runs:
            kills = [asyncio.ensure_future(run.kill()) for run in self._runs]
            if (await asyncio.wait(kills, timeout=self.offer.grace + _ANSWER))[1]:
                self.warden.kill()
                await asyncio.wait(kills)
        if self._ending:
            await asyncio.wait(set(self._ending))
        await self.warden.close()


class _Once:
    def __init__(self, act: Any) -> None:
        self._act = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


class LoopCommandServer:
    """Offers a command from an event loop. `start`, then `stop`; or `async with`.

    Args:
        offer: what.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
    """

    def __init__(self, offer: Offer, node: str | None = None) -> None:
        self.offer = offer
        self._node = node
        self._server: aio.Server | None = None
        self._servicer: Servicer | None = None

    async def start(self) -> None:
        """Offers it.

        Raises:
            IpcdError: there is no daemon, or it refused.
        """
        if self._server is not None:
            raise errors.UsageError(f"the command {self.offer.name} is offered already")
        servicer = self._servicer = Servicer(self.offer)
        most = self.offer.most + self.offer.waiting + _SPARE
        self._server = aio.server(name=self.offer.name, node=self._node, maximum_concurrent_rpcs=most)
        command_pb2_grpc.add_CommandServicer_to_server(servicer, self._server)
        # Now rather than with the first run, which would be slow.
        servicer.warden.start()
        try:
            await self._server.start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float = 0) -> None:
        """Takes no new calls; those under way have `grace` seconds. What then still runs is ended, detached or not."""
        server, self._server = self._server, None
        servicer, self._servicer = self._servicer, None
        if server is not None:
            await server.stop(grace)
        if servicer is not None:
            await servicer.close()

    async def wait(self) -> None:
        """Until it is stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    @property
    def running(self) -> int:
        """How many run."""
        return 0 if self._servicer is None else self._servicer.places.running

    async def __aenter__(self) -> Self:
        if self._server is None:
            await self.start()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.stop()


class CommandServer:
    """Offers a command, from a thread of its own. `start`, then `stop`; or `with`. See LoopCommandServer."""

    def __init__(self, offer: Offer, node: str | None = None) -> None:
        self.offer = offer
        self._server = LoopCommandServer(offer, node)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Offers it.

        Raises:
            IpcdError: there is no daemon, or it refused.
        """
        if self._thread is not None:
            raise errors.UsageError(f"the command {self.offer.name} is offered already")
        self._loop = asyncio.new_event_loop()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._turns, name=f"ipcd-command-{self.offer.name}", daemon=True)
        self._thread.start()
        try:
            self._in_loop(self._server.start())
        except BaseException:
            self._end()
            raise

    def stop(self, grace: float = 0) -> None:
        """Takes no new calls; those under way have `grace` seconds. What then still runs is ended, detached or not."""
        if self._thread is not None:
            try:
                self._in_loop(self._server.stop(grace))
            finally:
                self._end()

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is stopped, at most so many seconds; whether it is."""
        return self._stopped.wait(timeout)

    @property
    def running(self) -> int:
        """How many run."""
        return self._server.running

    def _turns(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _in_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = self._loop = None
        self._stopped.set()

    def __enter__(self) -> Self:
        if self._thread is None:
            self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.stop()
