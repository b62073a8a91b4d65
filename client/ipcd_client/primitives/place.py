"""Where a named thing is, for threads: its home is asked for once, and its calls go there from then on.

A handle that has found its thing on a node stays with it: while that node cannot be reached its calls fail UNAVAILABLE,
and nothing else of the same name is taken for it. The calls of all handles of a process to one node share a channel.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import quote

import grpc

import ipcd_client
from ipcd_client.facade.channel import Channel
from ipcd_client.node.paths import default_socket
from ipcd_client.node.target import NODE_API
from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Elsewhere, from_status

S = TypeVar("S")
R = TypeVar("R")

# Seconds for the node of this machine to say where a thing is.
FIND: Final = 10.0
# How often one call follows its thing to another node.
MOVES: Final = 2
# Of messages, in bytes.
MESSAGE: Final = 64 << 20
OPTIONS: Final = (("grpc.max_receive_message_length", MESSAGE), ("grpc.max_send_message_length", MESSAGE))


def target_of(node: str) -> str:
    """Of the daemon of a node."""
    return f"ipcd://{quote(node, safe='')}"


class _Shared:
    """A channel of this process, and by how many handles it is held. Counted, as a weak reference could bring one back
    that is about to be closed."""

    __slots__ = ("channel", "users")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.users = 0


# By the daemon's socket and the target. The collector may run a handle's end while this thread holds the lock.
_channels: dict[tuple[str, str], _Shared] = {}
_lock = threading.RLock()


def _hold(path: str, target: str) -> Channel:
    with _lock:
        shared = _channels.get((path, target))
        if shared is None:
            shared = _channels[path, target] = _Shared(ipcd_client.channel(target, node=path, options=OPTIONS))
        shared.users += 1
        return shared.channel


def _release(path: str, target: str) -> None:
    with _lock:
        shared = _channels[path, target]
        shared.users -= 1
        if shared.users:
            return
        del _channels[path, target]
    shared.channel.close()


def keep(channel: grpc.Channel) -> Callable[[], None]:
    """Keeps the channel of a call that is under way, whatever becomes of the handles, until what this gives is called.
    One that was not made here is its owner's."""
    with _lock:
        for (path, target), shared in _channels.items():
            if shared.channel is channel:
                shared.users += 1
                return functools.partial(_release, path, target)
    return lambda: None


def _after_fork() -> None:
    # A thread that is not here may have held it. The channels see to themselves.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class Place:
    """Of one thing. `text`: NAME, or NAME@NODE for that node's. `node`: path of the daemon's socket; the default is
    that of `ipcd_client.channel`. `channel`: any channel to a node's gateway instead, which then finds the way; it
    stays the caller's.

    Raises:
        BadRequest: it is no name.
    """

    def __init__(self, kind: str, text: str, node: str | None = None, channel: grpc.Channel | None = None) -> None:
        self.kind = kind
        self.text = text
        self.name, self._home = naming.parse(kind, text)
        self.path = node or default_socket()
        self._given = channel
        self._channel: Channel | None = None
        self._target = ""
        self._end: weakref.finalize[Any, Any] | None = None
        self._lock = threading.Lock()
        self._made: tuple[grpc.Channel, Any, Any] | None = None  # the last stub, for which channel, by what

    def home(self) -> str:
        """The node that keeps it; that of this machine, if there is none yet.

        Raises:
            Ambiguous: several nodes do.
            CallFailed: the daemon cannot be asked.
        """
        if not self._home:
            channel = _hold(self.path, NODE_API)
            try:
                request = names_pb2.FindRequest(kind=self.kind, name=self.text)
                reply = names_pb2_grpc.NamesStub(channel).Find(request, timeout=FIND)
            except grpc.RpcError as error:
                raise _failure(error) from error
            finally:
                _release(self.path, NODE_API)
            self._home = reply.node or reply.here
        return self._home

    def channel(self) -> grpc.Channel:
        """To its home's daemon."""
        if self._given is not None:
            return self._given
        # Not under the lock, which a child of a fork would find taken for good.
        home = self.home()
        with self._lock:
            if self._channel is None:
                self._target = target_of(home)
                self._channel = _hold(self.path, self._target)
                self._end = weakref.finalize(self, _release, self.path, self._target)
                self._end.atexit = False
            return self._channel

    def _take(self) -> tuple[grpc.Channel, str]:
        """The channel, for one call, and its target, to be released: another thread may find meanwhile that the thing
        is elsewhere. A channel that was given has none."""
        while True:
            channel = self.channel()
            if self._given is not None:
                return channel, ""
            with self._lock:
                if channel is self._channel:
                    _hold(self.path, self._target)
                    return channel, self._target

    def run(self, stub: Callable[[grpc.Channel], S], act: Callable[[S], R]) -> R:
        """What `act` makes of a stub for its home. Where another node turns out to be that, once more there; `act` has
        to be one that may be tried again after it has failed so.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: what the call failed with.
        """
        moves = 0
        while True:
            channel, target = self._take()
            try:
                return act(self._stub(stub, channel))
            except grpc.RpcError as error:
                failure = _failure(error)
                moves += 1
                if not isinstance(failure, Elsewhere) or moves > MOVES:
                    raise failure from error
                self.moved(failure.node)
            finally:
                if target:
                    _release(self.path, target)

    def _stub(self, stub: Callable[[grpc.Channel], S], channel: grpc.Channel) -> S:
        """Made once for a channel: that takes a tenth of what a short call does."""
        made = self._made
        if made is None or made[0] is not channel or made[1] is not stub:
            made = self._made = (channel, stub, stub(channel))
        found: S = made[2]
        return found

    def moved(self, node: str) -> None:
        """Its home is another node."""
        self.close()
        self._home = node

    def close(self) -> None:
        """Lets go of the channel. The next call takes it up again."""
        with self._lock:
            end, self._end, self._channel, self._made = self._end, None, None, None
        if end is not None:
            end()


def _failure(error: Any) -> Exception:
    return from_status(error.code(), error.details() or "")
