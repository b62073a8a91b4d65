"""Locks: what the handles for threads and those for event loops have in common. Requests, answers, names of parties."""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import grpc

from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives.errors import Lost, from_status
from ipcd_client.rpc import status

KIND: Final = "lock"
# Seconds for an answer that needs no waiting, and for the other end to confirm that all was given back.
ANSWER: Final = 10.0


OnLost = Callable[[Lost], object]
S = TypeVar("S", bound="Watched")


class _Process:
    """This process, as others cannot guess it; and the numbers of what is in it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.name = secrets.token_hex(8)
        self.numbers = itertools.count(1)


_process = _Process()
os.register_at_fork(after_in_child=_process.renew)


def next_party() -> tuple[str, str]:
    """The process, as `this_process`, and a party that no other is."""
    return _process.name, f"{_process.name}.{next(_process.numbers)}"


def this_process() -> str:
    """Changes with a fork."""
    return _process.name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a handle acquires: `length` 0 is all from `start` on. `wait` in seconds; None: as long as it takes."""

    shared: bool = False
    start: int = 0
    length: int = 0
    wait: float | None = None

    def changed(self, **changes: Any) -> Wanted:
        """With something else."""
        return replace(self, **changes)

    def request(self, id_: int, name: str = "", party: str = "") -> lock_pb2.LockHoldRequest:
        """For it, the first one of a session with a name."""
        acquire = lock_pb2.LockAcquire(
            range=lock_pb2.LockRange(start=self.start, length=self.length), shared=self.shared, wait=self.wait
        )
        return lock_pb2.LockHoldRequest(name=name, party=party, id=id_, acquire=acquire)


def opening(id_: int, name: str, party: str) -> lock_pb2.LockHoldRequest:
    """The first request of a session that holds nothing yet."""
    return lock_pb2.LockHoldRequest(name=name, party=party, id=id_)


def releasing(id_: int, start: int, length: int) -> lock_pb2.LockHoldRequest:
    """Gives a range back."""
    return lock_pb2.LockHoldRequest(id=id_, release=lock_pb2.LockRange(start=start, length=length))


def token_of(reply: lock_pb2.LockHoldReply) -> int:
    """The token that was granted; 0 where none was asked for.

    Raises:
        TimedOut, Deadlock, BadRequest, CallFailed: it was not.
    """
    if reply.HasField("failed"):
        raise from_status(status.from_int(reply.failed.code), reply.failed.details)
    return reply.granted.token


def lost_by(name: str, code: grpc.StatusCode, details: str) -> Lost:
    """What a session's end by this status means for who held the lock."""
    error = from_status(code, details)
    return error if isinstance(error, Lost) else Lost(f"the lock {name!r}: {code.name}: {details}")


def in_parent(name: str) -> Lost:
    """A session that a fork has not taken along."""
    return Lost(f"the lock {name!r} is held by the process from which this one was forked, not by this one")


class Handle:
    """What both handles have. A handle is cheap."""

    def __init__(self, place: Any, wanted: Wanted, party: str) -> None:
        self._place = place
        self._wanted = wanted
        self._party = party

    @property
    def name(self) -> str:
        """Without a node."""
        return str(self._place.name)

    def shared(self) -> Self:
        """The same, to be held together with others who share it."""
        return type(self)(self._place, self._wanted.changed(shared=True), self._party)

    def range(self, start: int, length: int = 0) -> Self:
        """The same, but of these bytes only; `length` 0: all from `start` on."""
        return type(self)(self._place, self._wanted.changed(start=start, length=length), self._party)


class Holding(Generic[S]):
    """What both kinds of session have: an owner, that holds what its handle says, or whatever it is told to. It is
    released at the end of its `with`, or when it is dropped.

    `lost`: an event, and true once what was held is not held any more: the daemon that keeps it was ended or cannot be
    reached, or somebody has removed it. Everything else raises `Lost` from then on, and so does the end of `with`.
    """

    def __init__(self, place: Any, stream: S, wanted: Wanted, token: int) -> None:
        self._place = place  # keeps the connection
        self._stream: S = stream
        self._wanted = wanted
        self._token = token
        self._drop = weakref.finalize(self, stream.abandon)
        self._drop.atexit = False

    @property
    def token(self) -> int:
        """The fencing token of the last grant: higher with each exclusive one. What is guarded takes nothing from
        whoever comes with a lower one than the highest that it has seen.

        Raises:
            Lost: it is not held any more.
        """
        self._stream.check()
        return self._token

    def check(self) -> None:
        """Raises `Lost` if it is not held any more, as far as is known here."""
        self._stream.check()

    def on_lost(self, callback: OnLost) -> None:
        """Calls `callback(error)` when it is lost, of threads on another one; at once if it is."""
        self._stream.on_lost(callback)

    def _granted(self, token: int) -> int:
        self._token = max(self._token, token)
        return token

    def _released(self) -> bool:
        """Whether it has been already; from now on it has."""
        return self._drop.detach() is None


class Watched(Protocol):
    """The call of a session."""

    def check(self) -> None:
        """Raises `Lost` where it is."""

    def on_lost(self, callback: OnLost) -> None:
        """Calls it when that happens; at once if it has."""

    def abandon(self) -> None:
        """Ends it without waiting."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who holds a range, or waits for it. `seconds`: for how long. `pid` 0: a client of that node's gateway."""

    node: str
    pid: int
    uid: int
    start: int
    length: int
    shared: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Info:
    """A lock as it stood. `token`: of the last exclusive grant, 0 before the first. Of many holders and waiters only
    the first are here: `holder_count` and `waiter_count` are of all."""

    name: str
    node: str
    token: int
    holders: Sequence[Party]
    waiters: Sequence[Party]
    holder_count: int
    waiter_count: int

    @classmethod
    def of(cls, info: lock_pb2.LockInfo) -> Info:
        """As it was told."""
        return cls(
            info.name,
            info.node,
            info.token,
            [_party(party) for party in info.holders],
            [_party(party) for party in info.waiters],
            info.holder_count,
            info.waiter_count,
        )


def _party(party: lock_pb2.LockParty) -> Party:
    return Party(party.node, party.pid, party.uid, party.range.start, party.range.length, party.shared, party.since)
