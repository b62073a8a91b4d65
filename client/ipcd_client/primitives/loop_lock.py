"""Locks by name, for an event loop: lock.py, with coroutines.

>>> async with ipcd_client.aio.lock("ledger") as held:
...     await write(entry, fence=held.token)
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

import grpc

from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives import lock_terms as terms
from ipcd_client.primitives.lock_terms import Handle, Info, Wanted
from ipcd_client.primitives.loop_lock_session import Flag, Held, Stream
from ipcd_client.primitives.loop_place import LoopPlace

__all__ = ["Flag", "Held", "Info", "Lock", "lock"]

S = TypeVar("S")
R = TypeVar("R")

# Of tasks.
_parties: weakref.WeakKeyDictionary[asyncio.Task[Any], tuple[str, str]] = weakref.WeakKeyDictionary()


def _party() -> str:
    task = asyncio.current_task()
    if task is None:
        return terms.next_party()[1]
    known = _parties.get(task)
    if known is None or known[0] != terms.this_process():
        known = _parties[task] = terms.next_party()
    return known[1]


class _Place(LoopPlace):
    """Counts by how many it is used now."""

    users = 0

    def began(self) -> None:
        """One more."""
        self.users += 1

    def ended(self) -> None:
        """One less."""
        self.users -= 1

    async def rest(self) -> None:
        """Lets go of the connection where nobody uses it."""
        if not self.users:
            await self.close()

    async def left(self) -> None:
        """What was held with it is not any more."""
        self.ended()
        await self.rest()

    async def run(self, stub: Callable[[grpc.aio.Channel], S], act: Callable[[S], Awaitable[R]]) -> R:
        self.began()
        try:
            return await super().run(stub, act)
        finally:
            self.ended()


class Lock(Handle):
    """A handle, for any number of tasks of one loop. Each `async with`, and each `acquire`, is an owner of its own.
    When nothing is held with it any more it lets go of its connection, as `close` does. (lock.Lock)"""

    _place: _Place

    def __init__(self, place: _Place, wanted: Wanted, party: str) -> None:
        super().__init__(place, wanted, party)
        self._entered: dict[Any, list[Held]] = {}

    async def acquire(self, wait: float | None = None) -> Held:
        """Holds it, until that is released, or dropped. `wait`: seconds, 0 for not at all; the handle's by default.

        Raises:
            TimedOut: not within the time.
            Deadlock: to wait would be to wait for oneself.
            PrimitiveError, NotAllowed, CallFailed: it cannot be had.
        """
        return await self._opened(self._wanted if wait is None else self._wanted.changed(wait=wait))

    async def session(self) -> Held:
        """An owner that holds nothing yet, to acquire ranges with and give them back, one by one.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: it cannot be had.
        """
        return await self._opened(None)

    async def look(self) -> Info:
        """Who holds it and who waits for it.

        Raises:
            NoSuchName: nobody has held it yet.
            PrimitiveError, NotAllowed, CallFailed: it cannot be asked for.
        """
        request = lock_pb2.LockLookRequest(name=self._place.text)
        reply = await self._place.run(_stub, lambda stub: stub.Look(request, timeout=terms.ANSWER))
        return Info.of(reply.locks[0])

    async def remove(self, *, force: bool = False) -> None:
        """Removes it. `force`: also where it is held, and whoever does loses it.

        Raises:
            NoSuchName: there is none.
            InUse: it is held or waited for.
            PrimitiveError, NotAllowed, CallFailed: it cannot be.
        """
        request = lock_pb2.LockRemoveRequest(name=self._place.text, force=force)
        await self._place.run(_stub, lambda stub: stub.Remove(request, timeout=terms.ANSWER))

    async def close(self) -> None:
        """Lets go of the connection once nothing is held with it: what is stays so. The next call takes it up again."""
        await self._place.rest()

    async def __aenter__(self) -> Held:
        held = await self.acquire()
        self._entered.setdefault(_key(), []).append(held)
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        key = _key()
        held = self._entered[key].pop() if key in self._entered else None
        if not self._entered.get(key):
            self._entered.pop(key, None)
        if held is not None:
            await held.__aexit__(kind, error, traceback)

    async def _opened(self, wanted: Wanted | None) -> Held:
        name, party = self._place.text, self._party or _party()
        first = terms.opening(1, name, party) if wanted is None else wanted.request(1, name, party)
        wait = 0.0 if wanted is None else wanted.wait

        async def act(stub: Any) -> tuple[Stream, int]:
            stream = Stream(stub, first, self._place.name, self._place.left)
            self._place.began()
            try:
                return stream, await stream.first(wait)
            except BaseException:
                await stream.abandoned()
                raise

        try:
            stream, token = await self._place.run(_stub, act)
        except BaseException:
            await self._place.rest()
            raise
        return Held(self._place, stream, wanted or self._wanted, token)


def _stub(channel: grpc.aio.Channel) -> Any:
    return lock_pb2_grpc.LockStub(channel)


def _key() -> Any:
    return os.getpid(), asyncio.current_task()


def lock(
    name: str,
    *,
    node: str | None = None,
    channel: grpc.aio.Channel | None = None,
    wait: float | None = None,
    party: str = "",
) -> Lock:
    """A lock by name. The arguments are those of `ipcd_client.lock`; by default each task is a party of its own.

    Raises:
        BadRequest: it is no name.
    """
    return Lock(_Place(terms.KIND, name, node, channel), Wanted(wait=wait), party)
