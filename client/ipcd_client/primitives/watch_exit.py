"""`ipcd_client.watch_exit`: how a process ended, and when, on any node."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives import flags
from ipcd_client.primitives.errors import Elsewhere, TimedOut
from ipcd_client.primitives.flags import Exit, Watched
from ipcd_client.primitives.following import Follower
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.waiting import checked, deadline_of, first


def watch_exit(
    pid: int | str | None = None,
    *,
    service: str | None = None,
    name: str | None = None,
    node: str | None = None,
    channel: grpc.Channel | None = None,
) -> ExitWatch:
    """Watches a process, from when this returns.

    Args:
        pid: its number on this node, or PID@NODE.
        service: or what it, and no other process, serves; may be followed by @NODE.
        name: or the name of a server that it, and no other process, has; may be followed by @NODE.
        node: path of the daemon's socket. Default: that of `ipcd_client.channel`.
        channel: any channel to a node's gateway instead, whose node counts as this one.

    Raises:
        BadRequest: it is not one of the three.
        NoSuchName: there is no such process.
        Ambiguous: there are several.
        NotAllowed, LimitReached, CallFailed: it cannot be watched.
    """
    return ExitWatch(flags.watching(pid, service, name), node, channel)


def tell_exit(pid: int, *, node: str | None = None) -> int:
    """Waits until a child of this process has ended, and tells the node's daemon how, for those who watch it: which the
    daemon may have no right to know otherwise. The child is still to be waited for (`Popen.wait`), after this.

    Returns: how many watches were told.

    Raises:
        ChildProcessError: it is no child, or was waited for.
        NotAllowed, CallFailed: the daemon could not be told.
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    request = signal_pb2.TellExitRequest(name=str(pid), wait_status=flags.wait_status(ended.si_code, ended.si_status))
    place = Place(flags.KIND, str(pid), node)
    try:
        reply = place.run(signal_pb2_grpc.SignalStub, lambda stub: stub.TellExit(request, timeout=deadline_of(0)))
    finally:
        place.close()
    return int(reply.watches)


class ExitWatch:
    """Watches one process until it has ended, or this is closed. Where its node's daemon goes away, it watches again as
    soon as that is back."""

    def __init__(self, request: signal_pb2.WatchExitRequest, node: str | None, channel: grpc.Channel | None) -> None:
        self._process = os.getpid()
        self._stream = _Stream(request, node, channel)
        try:
            self._follower = Follower(self._stream, f"ipcd-exit-{request.name}")
        except BaseException:
            self._stream.place.close()
            raise
        self._end = weakref.finalize(self, self._follower.cancel)
        self._end.atexit = False

    @property
    def process(self) -> Watched:
        """Which one it is."""
        return self._stream.watched

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it has not."""
        return self._stream.exit

    def wait(self, timeout: float | None = None) -> Exit:
        """Waits until it has ended, for at most `timeout` seconds.

        Raises:
            TimedOut: it has not.
            Lost: it has while nobody watched it.
            UsageError: the watch is closed, or another process's.
            IpcdError: it cannot be watched any more.
        """
        if self._process != os.getpid():
            raise UsageError("a watch is of the process that made it, and not of those that it forked")
        stream = self._stream
        with stream.news:
            stream.news.wait_for(lambda: stream.exit is not None or stream.error is not None, checked(timeout))
        if stream.exit is not None:
            return stream.exit
        if stream.error is not None:
            raise stream.error
        raise TimedOut(f"process {stream.watched.pid} on node {stream.watched.node} did not end within {timeout:g} s")

    def close(self) -> None:
        """Watches no more."""
        if self._end.detach() is None:
            return
        self._stream.failed(UsageError("the watch is closed"))
        if self._process == os.getpid():
            self._follower.close()
            self._stream.place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Stream:
    """What a watch's thread holds of it. (following.Followed)"""

    def __init__(self, request: signal_pb2.WatchExitRequest, node: str | None, channel: grpc.Channel | None) -> None:
        self.place = Place(flags.KIND, request.name, node, channel)
        self.news = threading.Condition()
        self.watched = Watched("", 0, 0)
        self.exit: Exit | None = None
        self.error: IpcdError | None = None
        self._request = request

    def open(self, opened: Callable[[Any], None]) -> None:
        def begin(stub: signal_pb2_grpc.SignalStub) -> signal_pb2.WatchExitReply:
            call = stub.WatchExit(self._request)
            opened(call)
            reply: signal_pb2.WatchExitReply = first(call, 0)
            return reply

        try:
            reply = self.place.run(signal_pb2_grpc.SignalStub, begin)
        except Elsewhere as error:
            # A gateway goes where the name says.
            self._request.name = f"{self._request.name.partition('@')[0]}@{error.node}"
            reply = self.place.run(signal_pb2_grpc.SignalStub, begin)
        self.watched = flags.pin(self._request, reply)

    def come(self, reply: signal_pb2.WatchExitReply) -> bool:
        with self.news:
            self.exit = flags.exited(reply.exited)
            self.news.notify_all()
        return False

    def broken(self) -> None:
        pass

    def failed(self, error: IpcdError) -> None:
        with self.news:
            self.error = flags.unwatched(error, self.watched)
            self.news.notify_all()
