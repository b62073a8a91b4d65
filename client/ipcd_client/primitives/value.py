"""Shared data, for threads. What it is: docs/primitives/value.md."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import values
from ipcd_client.primitives.errors import Lost, TimedOut, from_status
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.values import ANSWER, INLINE, KIND, Asking, Snapshot
from ipcd_client.primitives.waiting import deadline_of, ends_at, first, left_until
from ipcd_client.rpc.failure import CallFailed

if TYPE_CHECKING:
    from typing_extensions import Buffer


def value(name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> Value:
    """A handle of the value NAME, or NAME@NODE for the one that this node keeps; it need not be there yet.

    `node`: path of the daemon's socket; the default is that of `ipcd_client.channel`. `channel`: any channel to a
    node's gateway instead; it stays the caller's.

    Raises:
        BadRequest: it is no name.
    """
    return Value(name, node=node, channel=channel)


class Value:
    """See `value`. Several threads may use it. All methods raise `NotAllowed` where the rules do not let the caller,
    `LimitReached`'s status as `CallFailed` past a limit, and `CallFailed` UNAVAILABLE where the value's home cannot be
    reached."""

    def __init__(self, name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> None:
        self._place = Place(KIND, name, node, channel)
        self._asking = Asking(name)
        self._attachment = attach.shared(self._place.path) if channel is None else None
        self._lock = threading.Lock()
        self._holding: values.Holding | None = None

    @property
    def name(self) -> str:
        """As it was given."""
        return self._place.text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends what `ephemeral` has tied to this handle, and lets go of its connections."""
        with self._lock:
            holding, self._holding = self._holding, None
            attachment, self._attachment = self._attachment, None
        try:
            if holding is not None and holding.ours:
                self._let_go(holding)
        finally:
            if attachment is not None:
                attachment.release()
            self._place.close()

    # -- reading ----------------------------------------------------------------------------------

    def get(self) -> Snapshot:
        """What it is now; false if there is none."""
        return self._whole(
            self._place.run(value_pb2_grpc.ValueStub, lambda stub: stub.Get(self._asking.get(), timeout=ANSWER))
        )

    def info(self) -> value_pb2.ValueInfo:
        """What it is now, without its bytes."""
        request = self._asking.get(head=True)
        reply: value_pb2.ValueReply = self._place.run(
            value_pb2_grpc.ValueStub, lambda stub: stub.Get(request, timeout=ANSWER)
        )
        self._asking.seen(reply.info)
        return reply.info

    def version(self) -> int:
        """Of what it is now; 0 if there is none."""
        return int((self.info()).version)

    def wait(self, known: Snapshot | None = None, timeout: float | None = None) -> Snapshot:
        """What it is, once that is something else than `known`; None stands for that there is none. While its home
        cannot be reached, that is waited for too. `timeout` in seconds.

        Raises:
            TimedOut: it has not changed.
        """
        end = ends_at(timeout)
        pause = values.RETRY_FIRST
        while True:
            left = left_until(end)
            try:
                return self._whole(self._next(known, left))
            except CallFailed as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if end is not None and time.monotonic() + pause >= end:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, values.RETRY_MOST)

    def _next(self, known: Snapshot | None, left: float | None) -> value_pb2.ValueReply:
        request = self._asking.next(known, left)

        def act(stub: value_pb2_grpc.ValueStub) -> Any:
            return stub.Next(request, timeout=deadline_of(left))

        reply: value_pb2.ValueReply = self._place.run(value_pb2_grpc.ValueStub, act)
        return reply

    def watch(self, known: Snapshot | None = None, timeout: float | None = None) -> Iterator[Snapshot]:
        """What it is whenever that is something else: at first whatever is not `known`. Of changes that follow one
        another quickly, the last is always among those told. `timeout`: seconds for each.

        Raises:
            TimedOut: it has not changed.
        """
        while True:
            known = self.wait(known, timeout)
            yield known

    def _whole(self, reply: value_pb2.ValueReply) -> Snapshot:
        """With its bytes, or with those of a later version."""
        self._asking.seen(reply.info)
        if not reply.more:
            return values.inline(reply)
        if self._attachment is None:
            return self._read(reply.info.size)
        connection = self._attachment.connection()
        request = self._asking.get(at=reply.info.node)
        try:
            answer, fds = attach.call(
                connection,
                values.MAP,
                request,
                value_pb2.ValueReply,
                time.monotonic() + values.time_for(reply.info.size),
            )
        except CallFailed as error:
            raise from_status(error.code, str(error)) from error
        snapshot = values.mapped(answer, fds)
        self._asking.seen(snapshot)
        return snapshot

    def _read(self, size: int) -> Snapshot:
        def read(stub: value_pb2_grpc.ValueStub) -> Snapshot:
            gathered = values.Gathered()
            for reply in stub.Read(self._asking.get(), timeout=values.time_for(size)):
                gathered.take(reply)
            return gathered.done()

        return self._place.run(value_pb2_grpc.ValueStub, read)

    # -- changing ---------------------------------------------------------------------------------

    def set(self, data: Buffer | str, *, ttl: float | None = None, ephemeral: bool = False) -> int:
        """Makes it this, bytes or a text; its new version. `ttl`: seconds until it ends by itself; None: it does not.
        `ephemeral`: it ends with this handle, and so with this process, however that ends. Either is said anew with
        each change.

        Raises:
            Lost: with `ephemeral`: its home has meanwhile forgotten this handle, so that what was set before has ended.
        """
        return self._set(data, None, ttl, ephemeral)

    def compare_and_set(
        self,
        version: int | Snapshot,
        data: Buffer | str,
        *,
        ttl: float | None = None,
        ephemeral: bool = False,
    ) -> int:
        """The same if it has this version, 0 for that there is none; 0 if it has not, and nothing has changed."""
        return self._set(data, version, ttl, ephemeral)

    def _set(self, data: Buffer | str, version: int | Snapshot | None, ttl: float | None, ephemeral: bool) -> int:
        view = values.viewed(data)
        holder = self._hold() if ephemeral else 0
        request = self._asking.set(len(view), version, ttl, holder)

        if len(view) <= INLINE:
            request.data = bytes(view)
        else:
            request.ticket = self._allotted(view)

        def act(stub: value_pb2_grpc.ValueStub) -> Any:
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
            reply = self._place.run(value_pb2_grpc.ValueStub, act)
        except Lost:
            self._forget(holder)
            raise
        self._asking.seen(reply.info)
        return 0 if reply.refused else int(reply.info.version)

    def _allotted(self, data: memoryview) -> bytes:
        """The ticket for memory that has these bytes; empty if its home is another node."""
        if self._attachment is None:
            return b""
        request = self._asking.allot(len(data), self._place.home())
        connection = self._attachment.connection()
        try:
            reply, fds = attach.call(
                connection, values.ALLOT, request, value_pb2.ValueAllotReply, time.monotonic() + ANSWER
            )
        except CallFailed as error:
            raise from_status(error.code, str(error)) from error
        for memory in fds:
            for _ in values.written(memory, data):
                pass
        return reply.ticket

    def add(self, amount: int = 1) -> int:
        """Adds to a number, which is kept as a decimal in text: b"42"; the sum. Where there is none, adds to 0.

        Raises:
            BadRequest: it is no number, or the sum has more than 64 bits.
        """
        request = self._asking.add(amount)
        reply = self._place.run(value_pb2_grpc.ValueStub, lambda stub: stub.Add(request, timeout=ANSWER))
        self._asking.seen(reply.info)
        return int(reply.number)

    def delete(self, version: int | Snapshot | None = None) -> bool:
        """Ends it; with a version, only if it has that one. Whether it has: false where there was none, too."""
        request = self._asking.delete(version)
        reply = self._place.run(value_pb2_grpc.ValueStub, lambda stub: stub.Delete(request, timeout=ANSWER))
        return not reply.refused

    # -- a hold -----------------------------------------------------------------------------------

    def _hold(self) -> int:
        with self._lock:
            if self._holding is None or not self._holding.ours:
                self._holding = self._place.run(value_pb2_grpc.ValueStub, self._held)
            return self._holding.holder

    def _held(self, stub: value_pb2_grpc.ValueStub) -> values.Holding:
        call = stub.Hold(value_pb2.ValueHoldRequest(name=self._asking.text))
        return values.Holding(call, first(call, 0))

    def keep(self) -> None:
        """As long as what `ephemeral` has tied to this handle can last: for ever, if nothing happens to its home.

        Raises:
            Lost: it has ended.
        """
        holding = self._holding
        if holding is not None:
            try:
                for _ in holding.call:
                    pass
            except grpc.RpcError as error:
                raise Lost(f"what the value {self.name} was tied to is over") from error
        raise Lost(f"the value {self.name} is tied to nothing here")

    def _forget(self, holder: int) -> None:
        with self._lock:
            holding = self._holding
            if holding is not None and holding.holder == holder:
                self._holding = None
                holding.call.cancel()

    def _let_go(self, holding: values.Holding) -> None:
        """So that it has ended when this returns, where its home can be reached."""
        request = value_pb2.ValueDeleteRequest(name=self._asking.text, holder=holding.holder)
        try:
            self._place.run(value_pb2_grpc.ValueStub, lambda stub: stub.Delete(request, timeout=values.LET_GO))
        except (CallFailed, TimedOut):
            pass  # its home is away: it ends with the call
        finally:
            holding.call.cancel()
