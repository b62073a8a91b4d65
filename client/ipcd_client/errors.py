"""Everything that ipcd raises of itself, in one tree.

::

    IpcdError                     code: the gRPC status a caller sees
    ├── WireError                 UNAVAILABLE: the transport failed
    │   ├── WireClosed            the peer closed, reset, or died
    │   │   ├── WireLost          its host does not answer any more
    │   │   └── Exhausted         RESOURCE_EXHAUSTED: the peer did, as one of its limits is reached
    │   ├── WireStarved           there was no memory for what the peer has sent
    │   └── WireTimeout           DEADLINE_EXCEEDED: a wait reached its deadline
    ├── ProtocolError             INTERNAL: a peer sent what proto/FRAME.md forbids; has `violation`, its name there
    ├── ChannelClosed             CANCELLED: the program closed its channel
    ├── UsageError                FAILED_PRECONDITION: our own side asked for what the state does not allow
    ├── NodeError                 UNAVAILABLE: the node's daemon
    │   ├── NoDaemon              nothing answers on the daemon's socket
    │   └── CallFailed            (rpc.failure) it answered with an error, whose code this has
    ├── NotAllowed                PERMISSION_DENIED
    └── ConfigError               INVALID_ARGUMENT: a setting is wrong

OS errors are translated into these once, where the system call is made. What a user of stubs sees are
`grpc.RpcError`s; the facades make them from `code` and the text.
"""

from __future__ import annotations

import grpc


class IpcdError(Exception):
    """Root of the tree. `code` is the status that a call fails with because of it."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL


class WireError(IpcdError):
    """The transport below a connection failed."""

    code = grpc.StatusCode.UNAVAILABLE


class WireClosed(WireError):
    """The other end closed the connection, or died; or this one closed it as the other broke a rule of proto/FRAME.md,
    found where nothing was received: `violation` is the rule's name then."""

    violation = ""


class WireLost(WireClosed):
    """The peer's host does not answer any more: whether the peer lives, nobody knows here."""


class Exhausted(WireClosed):
    """The other end closed the connection because one of its limits is reached, which the text names."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class WireTimeout(WireError):
    """A wait on the wire reached its deadline."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class WireStarved(WireError):
    """This process has no memory for what the other end has sent, which is lost with the connection."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"there was no memory for what {peer} has sent")


class ProtocolError(IpcdError):
    """The peer broke a rule of proto/FRAME.md. The connection is lost, and nothing else.

    `violation` is the rule's name in that document.
    """

    code = grpc.StatusCode.INTERNAL

    def __init__(self, violation: str, detail: str) -> None:
        super().__init__(f"{violation}: {detail}")
        self.violation = violation
        self.detail = detail


class ChannelClosed(IpcdError):
    """The program closed the channel that the call is on."""

    code = grpc.StatusCode.CANCELLED


class UsageError(IpcdError):
    """Our own side asked for something that the state of the call or connection does not allow."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NodeError(IpcdError):
    """The node's daemon could not do what was asked."""

    code = grpc.StatusCode.UNAVAILABLE


class NoDaemon(NodeError):
    """Nothing answers on the daemon's socket. `path` is what was tried."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"no ipcd daemon at {path} ({why}); start one with: ipcd run --socket {path}")
        self.path = path
        self.why = why


class NotAllowed(IpcdError):
    """Identity and rule are named in the text."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ConfigError(IpcdError):
    """A setting is wrong. The text names the setting and where it came from."""

    code = grpc.StatusCode.INVALID_ARGUMENT


def without_frames(error: IpcdError) -> IpcdError:
    """The error, to be kept: its traceback would keep all that the frames in it hold, such as mapped memory."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__context__
    return error


def hostile(error: BaseException) -> bool:
    """Whether a connection ended by what the other end did, and not just with it: it broke a rule, or was too slow."""
    if isinstance(error, WireClosed):
        return bool(error.violation)
    return isinstance(error, (ProtocolError, WireTimeout))
