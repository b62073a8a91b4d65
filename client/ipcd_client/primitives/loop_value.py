"""Shared data, for an event loop: value.py, with coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from ipcd_client.node import loop_attach
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import values
from ipcd_client.primitives.errors import BadMemory, Lost, TimedOut, from_status
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.values import ANSWER, INLINE, KIND, Asking, Snapshot
from ipcd_client.primitives.waiting import deadline_of, ends_at, left_until, loop_answer, loop_first
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd, close_all

if TYPE_CHECKING:
    from typing_extensions import Buffer

R = TypeVar("R", bound=Message)


def value(name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> Value:
    """`ipcd_client.value`, on the event loop that first uses it.

    Raises:
        BadRequest: it is no name.
    """
    return Value(name, node=node, channel=channel)


class Value:
    """`ipcd_client.primitives.value.Value`, with coroutines; `close`, or `async with`, is a must."""

    def __init__(self, name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> None:
        self._place = LoopPlace(KIND, name, node, channel)
        self._asking = Asking(name)
        self._direct = channel is not None
        self._attachment: loop_attach.Attachment | None = None
        self._lock = asyncio.Lock()
        self._holding: values.Holding | None = None

    @property
    def name(self) -> str:
        """As it was given."""
        return self._place.text

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what `ephemeral` has tied to this handle, and lets go of its connections."""
        holding, self._holding = self._holding, None
        attachment, self._attachment = self._attachment, None
        try:
            if holding is not None and holding.ours:
                await self._let_go(holding)
        finally:
            if attachment is not None:
                loop_attach.release(attachment)
            await self._place.close()

    # -- reading ----------------------------------------------------------------------------------

    async def get(self) -> Snapshot:
        """What it is now; false if there is none."""
        return await self._whole(await self._run(lambda stub: stub.Get(self._asking.get(), timeout=ANSWER)))

    async def info(self) -> value_pb2.ValueInfo:
        """What it is now, without its bytes."""
        request = self._asking.get(head=True)
        reply: value_pb2.ValueReply = await self._run(lambda stub: stub.Get(request, timeout=ANSWER))
        self._asking.seen(reply.info)
        return reply.info

    async def version(self) -> int:
        """Of what it is now; 0 if there is none."""
        return int((await self.info()).version)

    async def wait(self, known: Snapshot | None = None, timeout: float | None = None) -> Snapshot:
        """What it is, once that is something else than `known`; None stands for that there is none. While its home
        cannot be reached, that is waited for too. `timeout` in seconds.

        Raises:
            TimedOut: it has not changed.
        """
        clock = asyncio.get_running_loop().time
        end = ends_at(timeout)
        pause = values.RETRY_FIRST
        while True:
            left = left_until(end)
            try:
                return await self._whole(await self._next(known, left))
            except CallFailed as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if end is not None and clock() + pause >= end:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, values.RETRY_MOST)

    async def _next(self, known: Snapshot | None, left: float | None) -> value_pb2.ValueReply:
        request = self._asking.next(known, left)
        reply: value_pb2.ValueReply = await self._run(lambda stub: stub.Next(request, timeout=deadline_of(left)))
        return reply

    async def watch(self, known: Snapshot | None = None, timeout: float | None = None) -> AsyncIterator[Snapshot]:
        """What it is whenever that is something else: at first whatever is not `known`. Of changes that follow one
        another quickly, the last is always among those told. `timeout`: seconds for each.

        Raises:
            TimedOut: it has not changed.
        """
        while True:
            known = await self.wait(known, timeout)
            yield known

    async def _whole(self, reply: value_pb2.ValueReply) -> Snapshot:
        """With its bytes, or with those of a later version."""
        self._asking.seen(reply.info)
        if not reply.more:
            return values.inline(reply)
        snapshot = await (self._read if self._direct else self._map)(reply.info)
        self._asking.seen(snapshot)
        return snapshot

    async def _map(self, info: value_pb2.ValueInfo) -> Snapshot:
        request = self._asking.get(at=info.node)
        return values.mapped(*await self._asked(values.MAP, request, value_pb2.ValueReply, values.time_for(info.size)))

    async def _asked(self, method: str, request: Message, reply: type[R], timeout: float) -> tuple[R, list[Fd]]:
        """The daemon of this machine: its reply, and the descriptors that came with it."""
        if self._attachment is None:
            self._attachment = loop_attach.hold(self._place.path)
        connection = await self._attachment.connection()
        try:
            message, fds = await connection.call(method, request.SerializeToString(), timeout=timeout)
        except CallFailed as error:
            raise from_status(error.code, str(error)) from error
        try:
            return reply.FromString(message), fds
        except DecodeError as error:
            close_all(fds)
            raise BadMemory(f"the daemon's answer does not parse: {error}") from error

    async def _read(self, info: value_pb2.ValueInfo) -> Snapshot:
        async def read(stub: Any) -> Snapshot:
            gathered = values.Gathered()
            async for reply in stub.Read(self._asking.get(), timeout=values.time_for(info.size)):
                gathered.take(reply)
            return gathered.done()

        snapshot: Snapshot = await self._run(read)
        return snapshot

    # -- changing ---------------------------------------------------------------------------------

    async def set(self, data: Buffer | str, *, ttl: float | None = None, ephemeral: bool = False) -> int:
        """Makes it this, bytes or a text; its new version. `ttl`: seconds until it ends by itself; None: it does not.
        `ephemeral`: it ends with this handle, and so with this process, however that ends. Either is said anew with
        each change.

        Raises:
            Lost: with `ephemeral`: its home has meanwhile forgotten this handle, so that what was set before has ended.
        """
        return await self._set(data, None, ttl, ephemeral)

    async def compare_and_set(
        self,
        version: int | Snapshot,
        data: Buffer | str,
        *,
        ttl: float | None = None,
        ephemeral: bool = False,
    ) -> int:
        """The same if it has this version, 0 for that there is none; 0 if it has not, and nothing has changed."""
        return await self._set(data, version, ttl, ephemeral)

    async def _set(self, data: Buffer | str, version: int | Snapshot | None, ttl: float | None, ephemeral: bool) -> int:
        view = values.viewed(data)
        holder = await self._hold() if ephemeral else 0
        request = self._asking.set(len(view), version, ttl, holder)
        if len(view) <= INLINE:
            request.data = bytes(view)
        else:
            request.ticket = await self._allotted(view)

        def act(stub: Any) -> Any:
            if len(view) <= INLINE:
                return stub.Set(request, timeout=ANSWER)
            if request.ticket:
                by_ticket = value_pb2.ValueSetRequest()
                by_ticket.CopyFrom(request)
                # Of one node: another, if that turns out to be its home, gets the bytes.
                request.ticket = b""
                return stub.Set(by_ticket, timeout=ANSWER)
            return stub.Write(values.pieces(request, view), timeout=values.time_for(len(view)))

        try:
            reply = await self._run(act)
        except Lost:
            self._forget(holder)
            raise
        self._asking.seen(reply.info)
        return 0 if reply.refused else int(reply.info.version)

    async def _allotted(self, data: memoryview) -> bytes:
        """The ticket for memory that has these bytes; empty if its home is another node."""
        if self._direct:
            return b""
        request = self._asking.allot(len(data), await self._place.home())
        reply, fds = await self._asked(values.ALLOT, request, value_pb2.ValueAllotReply, ANSWER)
        for memory in fds:
            for _ in values.written(memory, data):
                await asyncio.sleep(0)
        return reply.ticket

    async def add(self, amount: int = 1) -> int:
        """Adds to a number, which is kept as a decimal in text: b"42"; the sum. Where there is none, adds to 0.

        Raises:
            BadRequest: it is no number, or the sum has more than 64 bits.
        """
        request = self._asking.add(amount)
        reply = await self._run(lambda stub: stub.Add(request, timeout=ANSWER))
        self._asking.seen(reply.info)
        return int(reply.number)

    async def delete(self, version: int | Snapshot | None = None) -> bool:
        """Ends it; with a version, only if it has that one. Whether it has: false where there was none, too."""
        request = self._asking.delete(version)
        reply = await self._run(lambda stub: stub.Delete(request, timeout=ANSWER))
        return not reply.refused

    # -- a hold -----------------------------------------------------------------------------------

    async def _hold(self) -> int:
        async with self._lock:
            if self._holding is None or not self._holding.ours:
                self._holding = await self._run(self._held)
            return self._holding.holder

    async def _held(self, stub: Any) -> values.Holding:
        call = stub.Hold(value_pb2.ValueHoldRequest(name=self._asking.text))
        return values.Holding(call, await loop_first(call, 0))

    async def keep(self) -> None:
        """As long as what `ephemeral` has tied to this handle can last: for ever, if nothing happens to its home.

        Raises:
            Lost: it has ended.
        """
        holding = self._holding
        if holding is not None:
            try:
                while await loop_answer(holding.call, None) is not None:
                    pass
            except grpc.RpcError as error:
                raise Lost(f"what the value {self.name} was tied to is over") from error
        raise Lost(f"the value {self.name} is tied to nothing here")

    def _forget(self, holder: int) -> None:
        holding = self._holding
        if holding is not None and holding.holder == holder:
            self._holding = None
            holding.call.cancel()

    async def _let_go(self, holding: values.Holding) -> None:
        """So that it has ended when this returns, where its home can be reached."""
        request = value_pb2.ValueDeleteRequest(name=self._asking.text, holder=holding.holder)
        try:
            await self._run(lambda stub: stub.Delete(request, timeout=values.LET_GO))
        except (CallFailed, TimedOut):
            pass  # its home is away: it ends with the call
        finally:
            holding.call.cancel()

    async def _run(self, act: Any) -> Any:
        return await self._place.run(value_pb2_grpc.ValueStub, act)
