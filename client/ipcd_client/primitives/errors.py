"""What the primitives raise, in one tree; and how an error gets from a daemon to its caller.

::

    PrimitiveError (IpcdError)    reason: a word that stands at the beginning of the status's details
    ├── NoSuchName                NOT_FOUND no-such-name: there is no such thing, or it has been removed meanwhile
    ├── NameTaken                 ALREADY_EXISTS exists: there is one already, made otherwise
    ├── InUse                     FAILED_PRECONDITION in-use: somebody uses it, which is in the way of that
    ├── Ambiguous                 FAILED_PRECONDITION ambiguous: several nodes have one: say which, as NAME@NODE
    ├── Elsewhere                 ABORTED elsewhere: another node keeps it; `node` is its name
    ├── Full                      RESOURCE_EXHAUSTED full: it takes no more, and the caller did not want to wait
    ├── Empty                     RESOURCE_EXHAUSTED empty: there is nothing, and the caller did not want to wait
    ├── NoReader (OSError)        FAILED_PRECONDITION no-reader: nobody reads a pipe, and the caller did not wait
    ├── Broken (BrokenPipeError)  FAILED_PRECONDITION broken-pipe: nobody reads the pipe any more
    ├── TimedOut (TimeoutError)   DEADLINE_EXCEEDED timeout: the time that the caller gave is over
    ├── Deadlock                  ABORTED deadlock: to wait would be to wait for oneself
    ├── Lost                      ABORTED lost: what was held is not held any more
    ├── CannotStart               FAILED_PRECONDITION cannot-start: of a command: its program cannot be started
    ├── BadMemory                 INTERNAL bad-memory: shared memory or bytes that are not what was said
    └── BadRequest (ValueError)   INVALID_ARGUMENT bad-request: it makes no sense, in words

Any other failure of a call is a `CallFailed`, which has the code. After UNAVAILABLE and DEADLINE_EXCEEDED nobody knows
whether it was done: `TimedOut` is what the home itself says.
"""

from __future__ import annotations

import errno
from typing import Final

import grpc

from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.rpc.failure import CallFailed


class PrimitiveError(IpcdError):
    """Root of what the primitives raise."""

    reason = "failed"

    def details(self) -> str:
        """What a status says: the reason, and the text."""
        return f"{self.reason}: {self}"


class NoSuchName(PrimitiveError):
    """There is no such thing, or it has been removed while the caller waited."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "no-such-name"


class NameTaken(PrimitiveError):
    """There is one already, made otherwise than is asked for."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "exists"


class InUse(PrimitiveError):
    """Somebody uses it, and it was not to be taken away from them."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "in-use"


class Ambiguous(PrimitiveError):
    """Several nodes have one of the name."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "ambiguous"


class Elsewhere(PrimitiveError):
    """Another node keeps it: the text is that node's name."""

    code = grpc.StatusCode.ABORTED
    reason = "elsewhere"

    @property
    def node(self) -> str:
        """Where it is."""
        return str(self)


class Full(PrimitiveError):
    """It takes no more now."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "full"


class Empty(PrimitiveError):
    """There is nothing in it now."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "empty"


class NoReader(PrimitiveError, OSError):
    """Nobody reads the pipe now. `errno` is ENXIO, as for a FIFO."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "no-reader"
    errno = errno.ENXIO


class Broken(PrimitiveError, BrokenPipeError):
    """Nobody reads the pipe any more: what was written and not read is lost."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "broken-pipe"
    errno = errno.EPIPE


class TimedOut(PrimitiveError, TimeoutError):
    """The time that the caller gave is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "timeout"


class Deadlock(PrimitiveError):
    """Whoever waited here would wait for itself, through others."""

    code = grpc.StatusCode.ABORTED
    reason = "deadlock"


class Lost(PrimitiveError):
    """What the caller held is not held any more."""

    code = grpc.StatusCode.ABORTED
    reason = "lost"


class CannotStart(PrimitiveError):
    """The program of a command cannot be started, and why."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "cannot-start"


class BadMemory(PrimitiveError):
    """What came as a value's bytes is not sealed memory of the size that was said, or not all of them."""

    code = grpc.StatusCode.INTERNAL
    reason = "bad-memory"


class BadRequest(PrimitiveError, ValueError):
    """It makes no sense, in words."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "bad-request"


_BY_REASON: Final = {kind.reason: kind for kind in PrimitiveError.__subclasses__()}


def from_status(code: grpc.StatusCode, details: str) -> IpcdError:
    """The error that a status stands for."""
    reason, colon, text = details.partition(": ")
    kind = _BY_REASON.get(reason)
    if colon and kind is not None and kind.code is code:
        return kind(text)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return NotAllowed(details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        # Not of the home, which would have given the reason.
        return CallFailed(code, f"no answer came in time, and it may have been done or not: {details}")
    return CallFailed(code, details)
