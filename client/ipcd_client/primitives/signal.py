"""`ipcd_client.signal`: flags that are raised at processes, wherever they run."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives import flags, main_thread
from ipcd_client.primitives.errors import NoSuchName, TimedOut
from ipcd_client.primitives.flags import Inbox, Pending, Raised, Told
from ipcd_client.primitives.following import Follower
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.waiting import deadline_of, ends_at, first, left_until

Handler = Callable[[Raised], object]


def signal(name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> Signal:
    """A flag of this name.

    Args:
        name: NAME, the flag on all nodes; or NAME@NODE, the one at NODE's daemon alone.
        node: path of the daemon's socket. Default: that of `ipcd_client.channel`.
        channel: any channel to a node's gateway instead.

    Raises:
        BadRequest: it is no name.
    """
    return Signal(name, node, channel)


class Signal:
    """One flag. May be used by several threads."""

    def __init__(self, name: str, node: str | None, channel: grpc.Channel | None) -> None:
        self.name = name
        self._node = node
        self._given = channel
        self._place = Place(flags.KIND, name, node, channel)

    def raise_(self, *, pid: int | str | None = None, group: str = "") -> list[Told]:
        """Raises it at all who listen, or only at the process `pid` (PID of this node, or PID@NODE), or only at those
        who listen as members of `group`. It is raised at them when this returns; they may not have taken it yet.

        Returns: how many listeners it is raised at, for each node; also the nodes that could not be told, and why.

        Raises:
            BadRequest, NotAllowed, CallFailed: it cannot be raised.
        """
        request = flags.raising(self._place.text, pid, group)
        reply = self._place.run(signal_pb2_grpc.SignalStub, lambda stub: stub.Raise(request, timeout=deadline_of(0)))
        return flags.told(reply)

    def listen(self, *, group: str = "", handler: Handler | None = None) -> Listener:
        """Listens, from when this returns until the listener is closed. `handler` is called on the main thread each
        time that the flag is found raised, and takes it; then this has to be called on the main thread.

        Raises:
            BadRequest, NotAllowed, LimitReached, CallFailed: it cannot.
            UsageError: a handler was given on another thread.
        """
        return Listener(Place(flags.KIND, self.name, self._node, self._given), group, handler)

    def wait(self, timeout: float | None = None, *, group: str = "") -> Raised:
        """Listens until the flag is raised, for at most `timeout` seconds; one that was raised before is not seen.

        Raises:
            TimedOut: it was not.
            IpcdError: as `listen`.
        """
        with self.listen(group=group) as listener:
            return listener.wait(timeout)

    def close(self) -> None:
        """Lets go of the connection. Listeners go on."""
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """Listens for one flag, in the process that made it, until it is closed. Where its daemon goes away it listens
    again as soon as there is one; what was raised meanwhile it was not told of: `gaps` counts how often that was.

    Raises:
        IpcdError: as `Signal.listen`.
    """

    def __init__(self, place: Place, group: str, handler: Handler | None) -> None:
        if handler is not None:
            main_thread.install()
        self._process = os.getpid()
        self._stream = _Stream(place, group, handler)
        try:
            self._follower = Follower(self._stream, f"ipcd-signal-{place.name}")
        except BaseException:
            place.close()
            raise
        self._end = weakref.finalize(self, self._follower.cancel)
        self._end.atexit = False

    @property
    def node(self) -> str:
        """At whose daemon it listens."""
        return self._stream.node

    @property
    def gaps(self) -> int:
        """How often it could not listen for a while."""
        return self._stream.inbox.gaps

    @property
    def is_raised(self) -> bool:
        """Whether the flag is raised, and was not taken."""
        return self._stream.inbox.raised

    def take(self) -> Raised | None:
        """Takes the flag, if it is raised, as far as that is known here.

        Raises:
            IpcdError: it is not, and will not be, as nobody can listen any more.
        """
        self._check()
        with self._stream.news:
            pending = self._stream.inbox.take()
        return None if pending is None else self._stream.taken(pending)

    def wait(self, timeout: float | None = None) -> Raised:
        """Waits until the flag is raised, for at most `timeout` seconds, and takes it.

        Raises:
            TimedOut: it was not.
            UsageError: the listener is closed, or another process's.
            IpcdError: nobody can listen any more.
        """
        self._check()
        stream = self._stream
        end = ends_at(timeout)
        while True:
            with stream.news:
                stream.news.wait_for(lambda: stream.inbox.settled, left_until(end))
                pending = stream.inbox.take()
            if pending is None:
                raise TimedOut(f"the signal {stream.place.text} was not raised within {timeout:g} s")
            taken = stream.taken(pending)
            if taken is not None:
                return taken

    def _check(self) -> None:
        if self._process != os.getpid():
            raise UsageError("a listener is of the process that made it, and not of those that it forked")

    def close(self) -> None:
        """Listens no more. Who waits is woken, with an error."""
        if self._end.detach() is None:
            return
        self._stream.end(UsageError("the listener is closed"))
        if self._process == os.getpid():
            self._follower.close()
            self._stream.place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Stream:
    """What a listener's thread holds of it. (following.Followed)"""

    def __init__(self, place: Place, group: str, handler: Handler | None) -> None:
        self.place = place
        self.inbox = Inbox()
        self.news = threading.Condition(threading.RLock())  # a handler may interrupt who holds it
        self.node = ""
        self._request = signal_pb2.ListenRequest(name=place.text, group=group)
        self._listener = ""
        self._call: Any = None
        self._handler = handler

    def open(self, opened: Callable[[Any], None]) -> None:
        def begin(stub: signal_pb2_grpc.SignalStub) -> str:
            call = self._call = stub.Listen(self._request)
            opened(call)
            listening = first(call, 0).listening
            self._listener = listening.listener
            return str(listening.node)

        self.node = self.place.run(signal_pb2_grpc.SignalStub, begin)

    def taken(self, pending: Pending) -> Raised | None:
        """The flag, taken at the daemon, which has told of it."""
        if not pending.listener:
            return pending.flag
        request = signal_pb2.TakeRequest(name=self.place.text, listener=pending.listener)
        try:
            reply = self.place.run(signal_pb2_grpc.SignalStub, lambda stub: stub.Take(request, timeout=deadline_of(0)))
        except NoSuchName:
            return pending.flag  # the daemon that has told of it is gone, and the flag with it
        except IpcdError:
            self._renew()
            return pending.flag
        except BaseException:
            with self.news:
                self.inbox.put_back(pending.flag)
            self._renew()
            raise
        return flags.raised(reply.raised) if reply.HasField("raised") else None

    def _renew(self) -> None:
        """Listens anew: where a flag may still be raised at the daemon, it would not tell of it again."""
        self._call.cancel()

    def come(self, reply: signal_pb2.ListenReply) -> bool:
        pending = Pending(flags.raised(reply.raised), self._listener)
        if self._handler is not None:
            # Here, as a handler of a signal must wait for nothing that the thread it interrupts may hold.
            flag = self.taken(pending)
            if flag is None:
                return True
            pending = Pending(flag)
        with self.news:
            first = self.inbox.put(pending)
            self.news.notify_all()
        if first and self._handler is not None:
            main_thread.call(self._handle)
        return True

    def _handle(self) -> None:
        with self.news:
            pending = self.inbox.take() if self.inbox.raised else None
        if pending is not None and self._handler is not None:
            self._handler(pending.flag)

    def broken(self) -> None:
        with self.news:
            self.inbox.broke()

    def failed(self, error: IpcdError) -> None:
        self.end(error)
        if self._handler is not None:
            # Nobody else would ever be told.
            main_thread.call(partial(_raise, error))

    def end(self, error: IpcdError) -> None:
        """Nothing comes any more."""
        with self.news:
            self.inbox.error = self.inbox.error or error
            self.news.notify_all()


def _raise(error: IpcdError) -> None:
    raise error
