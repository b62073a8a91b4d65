"""The connection to the node's daemon of the programs on one event loop."""

from __future__ import annotations

import asyncio
import random
import weakref
from typing import Final

from ipcd_client.errors import IpcdError, NotAllowed, WireClosed, WireError
from ipcd_client.loop import dial
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.life import HELLO_TIMEOUT
from ipcd_client.loop.reading import Denied
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node import introduction
from ipcd_client.node.attach import API, SETTINGS
from ipcd_client.node.introduction import RETRY_FIRST, RETRY_MOST
from ipcd_client.rpc.call import ClientCall
from ipcd_client.wire import unix

# Introductions asked for at one time; the others wait. The daemon takes 512 calls of one connection.
OPENING: Final = 128


async def connect(path: str, timeout: float = HELLO_TIMEOUT) -> Connection:
    """Attaches to the daemon at the socket file `path`, in at most `timeout` seconds.

    Raises:
        NoDaemon: nothing answers there.
        NotAllowed: the file system does not let this user in, or the daemon's rules do not.
        IpcdError: the daemon refused, or does not speak.
    """
    try:
        sock = await dial.unix(path, timeout)
    except WireError as error:
        raise introduction.not_attached(path, error) from error
    wire = unix.UnixWire(sock, peer=f"the ipcd daemon at {path}", accept_fds=True)
    connection = Connection(wire, SETTINGS, dialer=True, hello_timeout=timeout)
    try:
        await connection.handshake()
    except BaseException as error:
        connection.fail(error if isinstance(error, IpcdError) else WireClosed("nobody waits for it any more"))
        if isinstance(error, Denied):
            # The daemon's answer, and no loss of a connection, which would be made again.
            raise NotAllowed(str(error)) from error
        raise
    return connection


class Attachment:
    """What the channels of one loop share, one for each socket path. Made when first needed, and again after the
    daemon was gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0
        self.failed = False  # the last try
        self.version = 0  # grows with the news of which the daemon tells, and when it is lost
        self.opening = asyncio.Semaphore(OPENING)
        self.changed = Waiters()  # it is there, or was lost, or could not be made
        self._connection: Connection | None = None
        self._making: asyncio.Task[Connection] | None = None
        self._trying: asyncio.Task[None] | None = None

    @property
    def connected(self) -> Connection | None:
        """The live connection; None while there is none."""
        connection = self._connection
        return connection if connection is not None and connection.usable else None

    async def connection(self) -> Connection:
        """The live connection.

        Raises:
            NoDaemon, IpcdError: as `connect` does.
        """
        if self.connected is not None:
            return self.connected
        if self._making is None or self._making.done():
            # A task of its own: those who wait may give up one by one.
            self._making = asyncio.get_running_loop().create_task(connect(self.path))
            self._making.add_done_callback(self._made)
            self.changed.progressed()
        return await asyncio.shield(self._making)

    @property
    def connecting(self) -> bool:
        """It is being made."""
        return self._making is not None and not self._making.done()

    def keep_trying(self) -> None:
        """Connects, and tries again until it is done; nobody needs to wait for it."""
        if self.connected is None and (self._trying is None or self._trying.done()):
            self._trying = asyncio.get_running_loop().create_task(self._try())

    async def _try(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self.connection()
                return
            except IpcdError:
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, RETRY_MOST)

    def _made(self, task: asyncio.Task[Connection]) -> None:
        self.failed = task.cancelled() or task.exception() is not None  # told to those who wait, if there are any
        if not self.failed:
            connection = task.result()
            if self.users:
                self._connection = connection
                connection.on_closed = self._lost
                News(self, connection)
            else:
                connection.fail(WireClosed("nobody needs the daemon any more"))
        self.changed.progressed()

    def _lost(self, _error: IpcdError) -> None:
        self.version += 1
        self.changed.progressed()

    def close(self) -> None:
        """Ends the connection."""
        for task in (self._making, self._trying):
            if task is not None:
                task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(WireClosed("nobody needs the daemon any more"))


class News:
    """Counts what the daemon tells over one call for as long as the connection lives. (User)"""

    def __init__(self, attachment: Attachment, connection: Connection) -> None:
        self._attachment = attachment
        self._connection = connection
        self._call = ClientCall(API + "WatchChanges", SETTINGS.max_message)
        self._call.user = self
        connection.start(self._call, message=b"", end=True)

    def progressed(self) -> None:
        """An event of the call was taken in."""
        while self._call.messages:
            self._connection.take(self._call)
            self._attachment.version += 1


_attachments: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Attachment]] = weakref.WeakKeyDictionary()


def hold(path: str) -> Attachment:
    """The attachment of the running loop for a socket path, held for the caller, who has to `release` it."""
    ours = _attachments.setdefault(asyncio.get_running_loop(), {})
    attachment = ours.get(path)
    if attachment is None:
        attachment = ours[path] = Attachment(path)
    attachment.users += 1
    return attachment


def release(attachment: Attachment) -> None:
    """One user less; with the last one the connection ends."""
    attachment.users -= 1
    if attachment.users == 0:
        _attachments.get(asyncio.get_running_loop(), {}).pop(attachment.path, None)
        attachment.close()
