"""A process's connection to its node's daemon."""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from ipcd_client.errors import ChannelClosed, IpcdError, WireError
from ipcd_client.frame.settings import RESET_DEADLINE, Settings
from ipcd_client.node import introduction
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.sync.connection import HELLO_TIMEOUT, Connection
from ipcd_client.sync.host import Host
from ipcd_client.wire import unix
from ipcd_client.wire.fds import Fd

API: Final = "/ipcd.v1.Node/"
SETTINGS: Final = Settings(accept_calls=False, accept_fds=True, max_message=64 << 20, software="ipcd-sdk")

R = TypeVar("R", bound=Message)


def connect(path: str, timeout: float = HELLO_TIMEOUT, host: Host | None = None) -> Connection:
    """Attaches to the daemon at the socket file `path`, in at most `timeout` seconds.

    Raises:
        NoDaemon: nothing answers there.
        NotAllowed: the file system does not let this user in, or the daemon's rules do not.
        IpcdError: the daemon refused, or does not speak.
    """
    deadline = monotonic() + timeout
    try:
        sock = unix.connect(path, timeout)
    except WireError as error:
        raise introduction.not_attached(path, error) from error
    wire = unix.UnixWire(sock, peer=f"the ipcd daemon at {path}", accept_fds=True)
    connection = Connection(wire, SETTINGS, dialer=True, host=host)
    try:
        connection.handshake(max(0.0, deadline - monotonic()))
    except IpcdError as error:
        connection.fail(error)
        raise
    return connection


def call(
    connection: Connection, method: str, request: Message, reply: type[R], deadline: float | None
) -> tuple[R, list[Fd]]:
    """Calls a unary method: the reply, and the descriptors that came with it (owned by the caller).

    `method`: a name of the daemon's API, or the whole path, "/pkg.Service/Method", of any other.

    Raises:
        CallFailed: with the peer's status; DEADLINE_EXCEEDED at the deadline of time.monotonic().
    """
    state = ClientCall(method if method.startswith("/") else API + method, SETTINGS.max_message)
    timeout = None if deadline is None else max(0.0, deadline - monotonic())
    connection.start(state, timeout=timeout, message=request.SerializeToString(), end=True)
    try:
        if not connection.wait(state.stream, lambda: state.code is not None, deadline):
            connection.end(
                state,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"{connection.wire.peer()} did not answer",
                RESET_DEADLINE,
            )
    except BaseException:
        connection.end(state, grpc.StatusCode.CANCELLED, "interrupted")
        raise
    fds: list[Fd] = list(state.fds)
    state.fds.clear()
    if state.code is grpc.StatusCode.OK and state.messages:
        try:
            return reply.FromString(bytes(state.messages[0][0])), fds
        except DecodeError as error:
            state.details = f"the reply to {method} does not parse: {error}"
    for fd in fds:
        fd.close()
    code = grpc.StatusCode.INTERNAL if state.code in (None, grpc.StatusCode.OK) else state.code
    raise CallFailed(code, state.details or f"{method} gave no reply")


class Attachment:
    """The connection that the channels of this process share, one for each socket path. Made when first needed, and
    again after the daemon was gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._users = 0
        self._version = 0
        self._watched: tuple[Connection, ClientCall] | None = None

    def connection(self, timeout: float = HELLO_TIMEOUT) -> Connection:
        """The live connection.

        Raises:
            ChannelClosed: it has no users any more.
            NoDaemon, IpcdError: as `connect` does.
        """
        connection = self._connection
        if connection is not None:
            # Nobody reads while nothing is asked: the daemon may have gone since.
            connection.look()
            if connection.usable:
                return connection
        with self._lock:
            if not self._users:
                # A thread that has outlived its channel: nobody would close what it makes.
                raise ChannelClosed(status.CHANNEL_CLOSED)
            connection = self._connection
            if connection is None or not connection.usable:
                if connection is not None:
                    connection.close()
                connection = self._connection = connect(self.path, timeout)
            return connection

    def version(self) -> int:
        """Grows with the news of which the daemon tells, and when it is lost. Waits for nothing."""
        if not self._lock.acquire(blocking=False):
            return self._version
        try:
            connection = self._connection
            if connection is None:
                return self._version
            if connection.usable:
                connection.look()
            if not connection.usable:
                self._connection = self._watched = None
                self._version += 1
                connection.close()
            elif self._watched is None or self._watched[0] is not connection:
                # Its first answer is news: from then on nothing is missed.
                call = ClientCall(API + "WatchChanges", SETTINGS.max_message)
                connection.start(call, message=b"", end=True)
                self._watched = connection, call
            elif self._watched[1].messages:
                while self._watched[1].messages:
                    connection.take(self._watched[1])
                self._version += 1
            return self._version
        finally:
            self._lock.release()

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread that is not here, the connection is the parent's."""
        self._lock = threading.Lock()

    @property
    def locked(self) -> bool:
        """Some thread, perhaps this one, is in the middle of it. For destructors."""
        return self._lock.locked() or _registry_lock.locked()

    def hold(self) -> None:
        """One more user."""
        with _registry_lock:
            self._users += 1

    def release(self) -> None:
        """One user less; the last one closes the connection."""
        with _registry_lock:
            self._users -= 1
            if self._users:
                return
            if _registry.get(self.path) is self:
                del _registry[self.path]
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_registry: dict[str, Attachment] = {}
_registry_lock = threading.Lock()


def shared(path: str) -> Attachment:
    """The attachment for a socket path, held for the caller."""
    with _registry_lock:
        attachment = _registry.get(path)
        if attachment is None:
            attachment = _registry[path] = Attachment(path)
    attachment.hold()
    return attachment


def _after_fork() -> None:
    # The connections are the parent's; the locks may be held by threads that are not here.
    global _registry_lock
    _registry_lock = threading.Lock()
    for attachment in _registry.values():
        attachment.after_fork()


os.register_at_fork(after_in_child=_after_fork)
