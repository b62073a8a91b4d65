"""Where a named thing is, for an event loop: place.py, with coroutines."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from ipcd_client import aio
from ipcd_client.node.paths import default_socket
from ipcd_client.node.target import NODE_API
from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Elsewhere, from_status
from ipcd_client.primitives.place import FIND, MOVES, OPTIONS, target_of

S = TypeVar("S")
R = TypeVar("R")


class _Shared:
    """A channel of one loop, and by how many it is held."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.users = 0


_channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Shared]] = (
    weakref.WeakKeyDictionary()
)


def _hold(path: str, target: str) -> aio.Channel:
    ours = _channels.setdefault(asyncio.get_running_loop(), {})
    shared = ours.get((path, target))
    if shared is None:
        shared = ours[path, target] = _Shared(aio.channel(target, node=path, options=OPTIONS))
    shared.users += 1
    return shared.channel


async def _release(path: str, target: str) -> None:
    ours = _channels.get(asyncio.get_running_loop(), {})
    shared = ours[path, target]
    shared.users -= 1
    if not shared.users:
        del ours[path, target]
        await shared.channel.close()


class LoopPlace:
    """Of one thing, on the loop that first uses it. To be closed. (place.Place)"""

    def __init__(self, kind: str, text: str, node: str | None = None, channel: grpc.aio.Channel | None = None) -> None:
        self.kind = kind
        self.text = text
        self.name, self._home = naming.parse(kind, text)
        self.path = node or default_socket()
        self._given = channel
        self._target = ""
        self._channel: aio.Channel | None = None
        self._made: tuple[grpc.aio.Channel, Any, Any] | None = None  # the last stub, for which channel, by what

    async def home(self) -> str:
        """The node that keeps it; that of this machine, if there is none yet.

        Raises:
            Ambiguous: several nodes do.
            CallFailed: the daemon cannot be asked.
        """
        if not self._home:
            channel = _hold(self.path, NODE_API)
            try:
                stub: Any = names_pb2_grpc.NamesStub(channel)
                reply = await stub.Find(names_pb2.FindRequest(kind=self.kind, name=self.text), timeout=FIND)
            except grpc.RpcError as error:
                raise _failure(error) from error
            finally:
                await _release(self.path, NODE_API)
            self._home = reply.node or reply.here
        return self._home

    async def channel(self) -> grpc.aio.Channel:
        """To its home's daemon."""
        if self._given is not None:
            return self._given
        if self._channel is None:
            target = target_of(await self.home())
            if self._channel is None:  # nobody else has come first
                self._target, self._channel = target, _hold(self.path, target)
        return self._channel

    async def run(self, stub: Callable[[Any], S], act: Callable[[S], Awaitable[R]]) -> R:
        """What `act` makes of a stub for its home. Where another node turns out to be that, once more there; `act` has
        to be one that may be tried again after it has failed so.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: what the call failed with.
        """
        moves = 0
        while True:
            channel = await self.channel()
            target = self._target
            # For one call: another task may find meanwhile that the thing is elsewhere.
            if self._given is None:
                _hold(self.path, target)
            try:
                return await act(self._stub(stub, channel))
            except grpc.RpcError as error:
                failure = _failure(error)
                moves += 1
                if not isinstance(failure, Elsewhere) or moves > MOVES:
                    raise failure from error
                # Unless another task has seen to it already.
                if self._given is not None or channel is self._channel:
                    await self.moved(failure.node)
            finally:
                if self._given is None:
                    await _release(self.path, target)

    def _stub(self, stub: Callable[[Any], S], channel: grpc.aio.Channel) -> S:
        """Made once for a channel: that takes a tenth of what a short call does."""
        made = self._made
        if made is None or made[0] is not channel or made[1] is not stub:
            made = self._made = (channel, stub, stub(channel))
        found: S = made[2]
        return found

    async def moved(self, node: str) -> None:
        """Its home is another node."""
        await self.close()
        self._home = node

    async def close(self) -> None:
        """Lets go of the channel."""
        if self._channel is not None:
            self._channel = self._made = None
            await _release(self.path, self._target)


def _failure(error: Any) -> Exception:
    return from_status(error.code(), error.details() or "")
