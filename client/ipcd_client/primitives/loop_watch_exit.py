"""`ipcd_client.aio.watch_exit`: watch_exit.py, with coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives import flags
from ipcd_client.primitives.errors import Elsewhere, TimedOut
from ipcd_client.primitives.flags import Exit, Watched
from ipcd_client.primitives.loop_following import Follower, Opened
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.waiting import checked, loop_first


def watch_exit(
    pid: int | str | None = None,
    *,
    service: str | None = None,
    name: str | None = None,
    node: str | None = None,
    channel: grpc.aio.Channel | None = None,
) -> LoopExitWatch:
    """A watch of a process, which watches once it was awaited or entered. The arguments are those of
    `ipcd_client.watch_exit`.

    Raises:
        BadRequest: it is not one of the three.
    """
    return LoopExitWatch(flags.watching(pid, service, name), node, channel)


class LoopExitWatch:
    """Watches one process: `async with watch_exit(7) as watch`, or `watch = await watch_exit(7)`.
    (watch_exit.ExitWatch)"""

    def __init__(
        self, request: signal_pb2.WatchExitRequest, node: str | None, channel: grpc.aio.Channel | None
    ) -> None:
        self.process = Watched("", 0, 0)
        self.exit: Exit | None = None
        self._error: IpcdError | None = None
        self._request = request
        self._place = LoopPlace(flags.KIND, request.name, node, channel)
        self._settled = asyncio.Event()
        self._follower = Follower(self)

    async def start(self) -> Self:
        """Watches, from when this returns.

        Raises:
            NoSuchName: there is no such process.
            Ambiguous: there are several.
            NotAllowed, LimitReached, CallFailed: it cannot be watched.
        """
        try:
            await self._follower.start()
        except BaseException:
            await self._place.close()
            raise
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def wait(self, timeout: float | None = None) -> Exit:
        """As `ExitWatch.wait`."""
        try:
            async with asyncio.timeout(checked(timeout)):
                await self._settled.wait()
        except TimeoutError:
            who = f"process {self.process.pid} on node {self.process.node}"
            raise TimedOut(f"{who} did not end within {timeout:g} s") from None
        if self.exit is not None:
            return self.exit
        assert self._error is not None
        raise self._error

    async def close(self) -> None:
        """Watches no more."""
        self.failed(UsageError("the watch is closed"))
        await self._follower.close()
        await self._place.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- what is followed (loop_following.Followed) -----------------------------------------------

    async def open(self, opened: Opened) -> None:
        """Watches."""

        async def begin(stub: Any) -> signal_pb2.WatchExitReply:
            call = stub.WatchExit(self._request)
            opened(call)
            reply: signal_pb2.WatchExitReply = await loop_first(call, 0)
            return reply

        try:
            reply = await self._place.run(signal_pb2_grpc.SignalStub, begin)
        except Elsewhere as error:
            # A gateway goes where the name says.
            self._request.name = f"{self._request.name.partition('@')[0]}@{error.node}"
            reply = await self._place.run(signal_pb2_grpc.SignalStub, begin)
        self.process = flags.pin(self._request, reply)

    def come(self, reply: signal_pb2.WatchExitReply) -> bool:
        """It has ended."""
        self.exit = flags.exited(reply.exited)
        self._settled.set()
        return False

    def broken(self) -> None:
        """Nobody watches."""

    def failed(self, error: IpcdError) -> None:
        """Nobody will."""
        self._error = flags.unwatched(error, self.process)
        self._settled.set()
