"""`ipcd_client.aio.signal`: signal.py, with coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives import flags
from ipcd_client.primitives.errors import NoSuchName, TimedOut
from ipcd_client.primitives.flags import Inbox, Pending, Raised, Told
from ipcd_client.primitives.loop_following import Follower, Opened
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.waiting import deadline_of, ends_at, loop_first

Handler = Callable[[Raised], Awaitable[object]]


def signal(name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> LoopSignal:
    """A flag of this name, for the loop that first uses it. The arguments are those of `ipcd_client.signal`.

    Raises:
        BadRequest: it is no name.
    """
    return LoopSignal(name, node, channel)


class LoopSignal:
    """One flag. (signal.Signal)"""

    def __init__(self, name: str, node: str | None, channel: grpc.aio.Channel | None) -> None:
        self.name = name
        self._node = node
        self._given = channel
        self._place = LoopPlace(flags.KIND, name, node, channel)

    async def raise_(self, *, pid: int | str | None = None, group: str = "") -> list[Told]:
        """As `Signal.raise_`."""
        request = flags.raising(self._place.text, pid, group)

        async def call(stub: Any) -> signal_pb2.RaiseReply:
            reply: signal_pb2.RaiseReply = await stub.Raise(request, timeout=deadline_of(0))
            return reply

        return flags.told(await self._place.run(signal_pb2_grpc.SignalStub, call))

    def listen(self, *, group: str = "", handler: Handler | None = None) -> LoopListener:
        """A listener, which listens once it was awaited or entered. `handler` is called each time that the flag is
        found raised, and takes it; the next call waits until the last one has returned.
        """
        return LoopListener(LoopPlace(flags.KIND, self.name, self._node, self._given), group, handler)

    async def wait(self, timeout: float | None = None, *, group: str = "") -> Raised:
        """As `Signal.wait`."""
        async with self.listen(group=group) as listener:
            return await listener.wait(timeout)

    async def close(self) -> None:
        """Lets go of the connection. Listeners go on."""
        await self._place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class LoopListener:
    """Listens for one flag: `async with signal.listen() as listener`, or `listener = await signal.listen()`.
    (signal.Listener)"""

    def __init__(self, place: LoopPlace, group: str, handler: Handler | None) -> None:
        self.node = ""
        self._place = place
        self._inbox = Inbox()
        self._request = signal_pb2.ListenRequest(name=place.text, group=group)
        self._listener = ""
        self._closing = False
        self._handler = handler
        self._handling: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._follower = Follower(self)

    async def start(self) -> Self:
        """Listens, from when this returns.

        Raises:
            BadRequest, NotAllowed, LimitReached, CallFailed: it cannot.
        """
        try:
            await self._follower.start()
        except BaseException:
            await self._place.close()
            raise
        if self._handler is not None:
            self._handling = asyncio.get_running_loop().create_task(self._handle(self._handler))
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    @property
    def gaps(self) -> int:
        """How often it could not listen for a while."""
        return self._inbox.gaps

    @property
    def is_raised(self) -> bool:
        """Whether the flag is raised, and was not taken."""
        return self._inbox.raised

    async def take(self) -> Raised | None:
        """As `Listener.take`."""
        pending = self._inbox.take()
        if self._inbox.error is None:
            self._settled.clear()
        return None if pending is None else await self._taken(pending)

    async def wait(self, timeout: float | None = None) -> Raised:
        """As `Listener.wait`."""
        end = ends_at(timeout)
        while True:
            # What was taken must not be lost as the time is over.
            flag = await self.take()
            if flag is not None:
                return flag
            try:
                async with asyncio.timeout_at(end):
                    await self._settled.wait()
            except TimeoutError:
                raise TimedOut(f"the signal {self._place.text} was not raised within {timeout:g} s") from None

    async def _taken(self, pending: Pending) -> Raised | None:
        async def call(stub: Any) -> signal_pb2.TakeReply:
            request = signal_pb2.TakeRequest(name=self._place.text, listener=pending.listener)
            reply: signal_pb2.TakeReply = await stub.Take(request, timeout=deadline_of(0))
            return reply

        if not pending.listener:
            return pending.flag
        try:
            reply = await self._place.run(signal_pb2_grpc.SignalStub, call)
        except NoSuchName:
            return pending.flag  # the daemon that has told of it is gone, and the flag with it
        except IpcdError:
            # The flag may still be raised at the daemon, which would not tell of it again.
            self._follower.renew()
            return pending.flag
        except BaseException:
            self._inbox.put_back(pending.flag)
            self._settled.set()
            self._follower.renew()
            raise
        return flags.raised(reply.raised) if reply.HasField("raised") else None

    async def close(self) -> None:
        """Listens no more. Who waits is woken, with an error."""
        self._closing = True
        self.failed(UsageError("the listener is closed"))
        await self._follower.close()
        if self._handling is not None and self._handling is not asyncio.current_task():
            self._handling.cancel()
            await asyncio.wait({self._handling})
        await self._place.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _handle(self, handler: Handler) -> None:
        while True:
            try:
                flag = await self.wait()
            except IpcdError as error:
                if not self._closing:
                    self._tell(f"nobody listens for the signal {self._place.text} any more", error)
                return
            try:
                await handler(flag)
            except Exception as error:  # noqa: BLE001  the loop's to tell, as of callbacks
                self._tell(f"the handler of the signal {self._place.text} failed", error)

    @staticmethod
    def _tell(message: str, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    # -- what is followed (loop_following.Followed) -----------------------------------------------

    async def open(self, opened: Opened) -> None:
        """Listens."""

        async def begin(stub: Any) -> str:
            call = stub.Listen(self._request)
            opened(call)
            reply = await loop_first(call, 0)
            self._listener = reply.listening.listener
            return str(reply.listening.node)

        self.node = await self._place.run(signal_pb2_grpc.SignalStub, begin)

    def come(self, reply: signal_pb2.ListenReply) -> bool:
        """The flag was raised."""
        self._inbox.put(Pending(flags.raised(reply.raised), self._listener))
        self._settled.set()
        return True

    def broken(self) -> None:
        """Nobody can be heard."""
        self._inbox.broke()

    def failed(self, error: IpcdError) -> None:
        """Nobody will be."""
        self._inbox.error = self._inbox.error or error
        self._settled.set()
