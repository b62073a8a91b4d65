"""Locks by name, for threads.

>>> with ipcd_client.lock("ledger") as held:
...     write(entry, fence=held.token)
...
>>> with ipcd_client.lock("ledger", wait=5).shared().range(0, 100):
...     ...
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives import lock_terms as terms
from ipcd_client.primitives.lock_session import Flag, Held, Stream
from ipcd_client.primitives.lock_terms import Handle, Info, Wanted
from ipcd_client.primitives.place import Place, keep

__all__ = ["Flag", "Held", "Info", "Lock", "lock"]


class _Thread(threading.local):
    """What the handles keep of each thread."""

    process = ""
    name = ""

    def party(self) -> str:
        """In whose name it waits and holds."""
        if self.process != terms.this_process():
            self.process, self.name = terms.next_party()
        return self.name


_thread = _Thread()


class _Made(NamedTuple):
    """A stub, and for which channel."""

    channel: grpc.Channel
    stub: Any


def _made(channel: grpc.Channel) -> _Made:
    return _Made(channel, lock_pb2_grpc.LockStub(channel))


class Lock(Handle):
    """A handle: cheap, for any number of threads. Each `with`, and each `acquire`, is an owner of its own."""

    _place: Place

    def __init__(self, place: Place, wanted: Wanted, party: str) -> None:
        super().__init__(place, wanted, party)
        self._entered: dict[tuple[int, int], list[Held]] = {}

    def acquire(self, wait: float | None = None) -> Held:
        """Holds it, until that is released, or dropped. `wait`: seconds, 0 for not at all; the handle's by default.

        Raises:
            TimedOut: not within the time.
            Deadlock: to wait would be to wait for oneself.
            PrimitiveError, NotAllowed, CallFailed: it cannot be had.
        """
        return self._opened(self._wanted if wait is None else self._wanted.changed(wait=wait))

    def session(self) -> Held:
        """An owner that holds nothing yet, to acquire ranges with and give them back, one by one.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: it cannot be had.
        """
        return self._opened(None)

    def look(self) -> Info:
        """Who holds it and who waits for it.

        Raises:
            NoSuchName: nobody has held it yet.
            PrimitiveError, NotAllowed, CallFailed: it cannot be asked for.
        """
        request = lock_pb2.LockLookRequest(name=self._place.text)
        reply = self._place.run(_made, lambda made: made.stub.Look(request, timeout=terms.ANSWER))
        return Info.of(reply.locks[0])

    def remove(self, *, force: bool = False) -> None:
        """Removes it. `force`: also where it is held, and whoever does loses it.

        Raises:
            NoSuchName: there is none.
            InUse: it is held or waited for.
            PrimitiveError, NotAllowed, CallFailed: it cannot be.
        """
        request = lock_pb2.LockRemoveRequest(name=self._place.text, force=force)
        self._place.run(_made, lambda made: made.stub.Remove(request, timeout=terms.ANSWER))

    def close(self) -> None:
        """Lets go of the connection once nothing is held with it: what is stays so. The next call takes it up again."""
        self._place.close()

    def __enter__(self) -> Held:
        held = self.acquire()
        self._entered.setdefault((os.getpid(), threading.get_ident()), []).append(held)
        return held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        key = (os.getpid(), threading.get_ident())
        held = self._entered[key].pop() if key in self._entered else None
        if not self._entered.get(key):
            self._entered.pop(key, None)
        if held is not None:
            held.__exit__(kind, error, traceback)

    def _opened(self, wanted: Wanted | None) -> Held:
        name, party = self._place.text, self._party or _thread.party()
        first = terms.opening(1, name, party) if wanted is None else wanted.request(1, name, party)
        wait = 0.0 if wanted is None else wanted.wait

        def act(made: _Made) -> tuple[Stream, int]:
            over = keep(made.channel)
            try:
                stream = Stream(made.stub, first, self._place.name, over)
            except BaseException:
                over()
                raise
            try:
                return stream, stream.first(wait)
            except BaseException:
                stream.abandon()
                raise

        stream, token = self._place.run(_made, act)
        return Held(self._place, stream, wanted or self._wanted, token)


def lock(
    name: str,
    *,
    node: str | None = None,
    channel: grpc.Channel | None = None,
    wait: float | None = None,
    party: str = "",
) -> Lock:
    """A lock by name: exclusive and of all, if `shared` and `range` of it do not say otherwise.

    Args:
        name: NAME, or NAME@NODE for that node's. It is made by the first that holds it.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: any channel to a node's gateway instead. It stays the caller's.
        wait: seconds for which to wait for it; 0: not at all; None: as long as it takes.
        party: in whose name to wait and hold, for finding circles of waits. Default: each thread is its own.

    Raises:
        BadRequest: it is no name.
    """
    return Lock(Place(terms.KIND, name, node, channel), Wanted(wait=wait), party)
