"""Signals, as both faces see them: what is asked and answered, and a flag on its way to whoever waits for it. Pure."""

from __future__ import annotations

import os
import signal as os_signals
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest, Lost, NoSuchName
from ipcd_client.rpc.failure import CallFailed

KIND: Final = "signal"
# Seconds between two tries to get back to a daemon: the first, and the longest.
RETRY_FIRST: Final = 0.05
RETRY_MOST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Raised:
    """A flag, and who raised it last: `pid` is 0 where that came through a gateway."""

    name: str
    node: str
    pid: int
    identity: str


@dataclass(frozen=True, slots=True)
class Told:
    """How many listeners at a node's daemon have a flag raised now; or why it could not be told."""

    node: str
    listeners: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """A process, by its node."""

    node: str
    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, and when.

    `ended`: seconds since the epoch by its node's clock; None where it had ended before it was watched. `code` and
    `signal`: one of them, or neither where nobody who knows has said. `source`: who has: "kernel", "parent", or "".
    """

    node: str
    pid: int
    uid: int
    ended: float | None
    code: int | None
    signal: int | None
    core_dumped: bool
    source: str

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: the negative number of a signal. None where it is not known."""
        return self.code if self.signal is None else -self.signal

    def __str__(self) -> str:
        who = f"process {self.pid} on node {self.node}"
        if self.signal is not None:
            try:
                name = os_signals.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"{who} was ended by {name}{', core dumped' if self.core_dumped else ''}"
        if self.code is not None:
            return f"{who} ended with exit code {self.code}"
        return f"{who} has ended; how is not known"


def raising(text: str, pid: int | str | None, group: str) -> signal_pb2.RaiseRequest:
    """What is asked for. `pid`: PID, or PID@NODE.

    Raises:
        BadRequest: it is none.
    """
    request = signal_pb2.RaiseRequest(name=text, group=group)
    if pid is not None:
        request.pid, request.pid_node = number(pid)
    return request


def number(pid: int | str) -> tuple[int, str]:
    """The number of a process and its node, which is empty where none is said. Each process has one name: no zero
    stands before its number.

    Raises:
        BadRequest: it is none.
    """
    text, node = naming.parse("process", str(pid))
    if not text.isascii() or not text.isdigit() or text.startswith("0") or int(text) >= 1 << 31:
        raise BadRequest(f"{str(pid)!r} is no number of a process: one is PID, or PID@NODE")
    return int(text), node


def told(reply: signal_pb2.RaiseReply) -> list[Told]:
    """Of each node."""
    return [Told(each.node, each.listeners, each.error) for each in reply.nodes]


def raised(flag: signal_pb2.Flag) -> Raised:
    """Parsed."""
    return Raised(flag.name, flag.process.node, flag.process.pid, flag.identity)


def watching(what: int | str | None, service: str | None, name: str | None) -> signal_pb2.WatchExitRequest:
    """What is asked for.

    Raises:
        BadRequest: it is not one of the three, or no number of a process.
    """
    given = [each for each in (what, service, name) if each is not None]
    if len(given) != 1:
        raise BadRequest("what is watched is one of: the number of a process, a service, the name of a server")
    request = signal_pb2.WatchExitRequest(name=str(given[0]))
    if what is not None:
        number(what)
    else:
        request.by = request.BY_SERVICE if service is not None else request.BY_SERVER
    return request


def pin(request: signal_pb2.WatchExitRequest, reply: signal_pb2.WatchExitReply) -> Watched:
    """The process that is watched: the request is for that one and no other from now on."""
    process = reply.watching
    request.name = f"{process.pid}@{process.node}"
    request.by = request.BY_PID
    request.pidfd_id = process.pidfd_id
    return Watched(process.node, process.pid, process.uid)


def unwatched(error: IpcdError, watched: Watched) -> IpcdError:
    """Why a watch that was broken off is not taken up again."""
    if isinstance(error, NoSuchName):
        return Lost(
            f"process {watched.pid} on node {watched.node} ended while nobody watched it; when and how is not known"
        )
    return error


def exited(reply: signal_pb2.Exited) -> Exit:
    """Parsed."""
    process = reply.process
    return Exit(
        process.node,
        process.pid,
        process.uid,
        reply.ended or None,
        reply.code if reply.HasField("code") else None,
        reply.signal if reply.HasField("signal") else None,
        reply.core_dumped,
        reply.source,
    )


def wait_status(si_code: int, si_status: int) -> int:
    """What waitid(2) tells, as wait(2) has it."""
    if si_code == os.CLD_EXITED:
        return si_status << 8
    return si_status | (0x80 if si_code == os.CLD_DUMPED else 0)


def lasting(error: IpcdError) -> bool:
    """Whether to try again would be of no use."""
    passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
    return not (isinstance(error, CallFailed) and error.code in passing)


def unusable(error: Exception) -> IpcdError:
    """Why a channel, which its caller has closed perhaps, takes no call any more."""
    return UsageError(f"the channel cannot be used any more: {error}")


def delays() -> Iterator[float]:
    """Seconds before each try."""
    delay = RETRY_FIRST
    while True:
        yield delay
        delay = min(2 * delay, RETRY_MOST)


class Pending(NamedTuple):
    """A flag that was told of. `listener`: the daemon's word for whom it told, which takes it there; empty where it was
    taken already, or whoever told is gone: then nobody else has it."""

    flag: Raised
    listener: str = ""


class Inbox:
    """Where what comes waits to be taken: of several there is the last one."""

    __slots__ = ("_pending", "error", "gaps")

    def __init__(self) -> None:
        self.gaps = 0  # how often nobody could be heard
        self.error: IpcdError | None = None
        self._pending: Pending | None = None

    @property
    def raised(self) -> bool:
        """There is something to be taken."""
        return self._pending is not None

    @property
    def settled(self) -> bool:
        """There is, or there will be nothing any more."""
        return self._pending is not None or self.error is not None

    def broke(self) -> None:
        """The daemon cannot be heard."""
        self.gaps += 1

    def put(self, pending: Pending) -> bool:
        """It came. False if there was one."""
        before, self._pending = self._pending, pending
        return before is None

    def put_back(self, flag: Raised) -> None:
        """It was taken for nobody. With one that came meanwhile it is one."""
        if self._pending is None:
            self._pending = Pending(flag)

    def take(self) -> Pending | None:
        """It, and there is none any more; None if there is none.

        Raises:
            IpcdError: there is none, and there will be none.
        """
        pending, self._pending = self._pending, None
        if pending is None and self.error is not None:
            raise self.error
        return pending
