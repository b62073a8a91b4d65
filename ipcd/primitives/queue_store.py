"""What durable queues have on the disk: SQLite, written by a thread in groups.

What is to be written is gathered while the group before is on its way to the disk; then all of it is one transaction,
and one fsync (WAL, synchronous=FULL). Who waits for `commit` is told after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb

from ipcd.log import Log
from ipcd.state.queue_message import Message
from ipcd.state.quota import Key

FILE: Final = "queues.db"
# Of the tables. Others are not touched.
_VERSION: Final = 1
# Seconds after which is written what nobody waits for; between two attempts where the disk takes nothing; and for
# another daemon to let go of the file.
_LATER: Final = 0.02
_RETRY: Final = 1.0
_BUSY: Final = 5.0

_TABLES: Final = (
    "CREATE TABLE queues (name TEXT PRIMARY KEY, uid INTEGER, created REAL, options BLOB)",
    """CREATE TABLE messages (id INTEGER PRIMARY KEY, queue TEXT, priority INTEGER, type INTEGER, owner_kind TEXT,
    owner TEXT, sent REAL, until REAL, held INTEGER, deliveries INTEGER, tag INTEGER, data BLOB)""",
)
_PUT: Final = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_MARK: Final = "UPDATE messages SET until = ?, held = ?, deliveries = ?, tag = ? WHERE id = ?"
_DELETE: Final = "DELETE FROM messages WHERE id = ?"
_REMOVE: Final = ("DELETE FROM messages WHERE queue = ?", "DELETE FROM queues WHERE name = ?")


# A statement, and the values of each time that it is executed.
Operation = tuple[str, Iterable[Sequence[Any]]]


class StoreFailed(IpcdError):
    """The disk does not take it, or has nothing that can be read."""

    code = grpc.StatusCode.UNAVAILABLE


class Row(NamedTuple):
    """A queue that was kept, and what is in it."""

    name: str
    uid: int
    created: float
    options: pb.QueueOptions
    messages: list[Message]


class Store:
    """Of one node, for its loop. `open` first, `close` last. (queue_message.Kept)"""

    def __init__(self, folder: Path, log: Log) -> None:
        self.path = folder / FILE
        self._log = log
        self._operations: list[Operation] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wanted = False
        self._closing = False
        self._error = ""
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._later: asyncio.TimerHandle | None = None

    async def open(self) -> list[Row]:
        """Reads all there is, and writes from now on.

        Raises:
            StoreFailed: it cannot be read.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[list[Row]] = self._loop.create_future()
        # Not a pool's: SQLite's connections stay with the thread that made them.
        self._thread = threading.Thread(target=self._run, args=(opened,), name="ipcd-queues", daemon=True)
        self._thread.start()
        try:
            return await opened
        except (sqlite3.Error, OSError) as error:
            self._closing = True
            raise StoreFailed(f"{self.path}: {error}") from error
        except StoreFailed:
            self._closing = True
            raise

    async def close(self) -> None:
        """Writes what is left."""
        if self._later is not None:
            self._later.cancel()
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def check(self) -> None:
        """Whether anything can be written.

        Raises:
            StoreFailed: it cannot, now.
        """
        if self._error:
            raise StoreFailed(f"{self.path}: {self._error}")

    async def commit(self) -> None:
        """Returns once everything up to here is on the disk.

        Raises:
            StoreFailed: it is not. It is tried again: it may get there, or not.
        """
        waiter = self._loop.create_future()
        if self._later is not None:
            # It goes along with this: no group of its own in the way of the next commit.
            self._later.cancel()
            self._later = None
        with self._condition:
            if self._closing:
                raise StoreFailed("the node is stopping")
            self._waiters.append(waiter)
            self._wanted = True
            self._condition.notify()
        await waiter

    # -- what is to be written --------------------------------------------------------------------

    def make(self, name: str, uid: int, created: float, options: pb.QueueOptions) -> None:
        """There is such a queue."""
        self._add(("INSERT INTO queues VALUES (?, ?, ?, ?)", [(name, uid, created, options.SerializeToString())]))

    def remove(self, name: str) -> None:
        """There is none any more, with all that was in it."""
        self._add(*((statement, [(name,)]) for statement in _REMOVE))

    def put(self, queue: str, message: Message) -> None:
        """(Kept)"""
        owner = message.owner[0] if message.owner else Key("", "")
        about = (message.id, queue, message.priority, message.type, owner.kind, owner.name, message.sent)
        state = (message.until, int(message.held), message.deliveries, message.tag)
        self._add((_PUT, [(*about, *state, message.data)]))

    def mark(self, queue: str, message: Message) -> None:  # noqa: ARG002  # of all queues the ids are different
        """(Kept) Nobody waits for that: a little later, with others."""
        self._add((_MARK, [(message.until, int(message.held), message.deliveries, message.tag, message.id)]))

    def delete(self, queue: str, numbers: Sequence[int]) -> None:  # noqa: ARG002
        """(Kept)"""
        self._add((_DELETE, _Each(numbers)))

    def _add(self, *operations: Operation) -> None:
        """All of these, in one transaction."""
        with self._condition:
            self._operations += operations
        # Also where nobody waits for it.
        if self._later is None:
            self._later = self._loop.call_later(_LATER, self._write_now)

    def _write_now(self) -> None:
        self._later = None
        with self._condition:
            if self._operations:
                self._wanted = True
                self._condition.notify()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self, opened: asyncio.Future[list[Row]]) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            self._tell(opened.set_exception, error)
            return
        with contextlib.closing(connection):
            try:
                rows = _read(connection)
            except Exception as error:  # noqa: BLE001  whatever is in a file, somebody waits for what becomes of it
                self._tell(opened.set_exception, StoreFailed(f"{self.path}: {error!r}"))
                return
            self._tell(opened.set_result, rows)
            while self._written(connection):
                pass

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What people send each other is not for everybody to read.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
        try:
            # Of one daemon alone. Nor does it then take a file for shared memory.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for table in _TABLES:
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"it is of version {version}, and this daemon knows {_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _written(self, connection: sqlite3.Connection) -> bool:
        """Writes one group, once there is one. False when that was the last."""
        with self._condition:
            while not self._wanted and not self._closing:
                self._condition.wait()
            operations, self._operations = self._operations, []
            waiters, self._waiters = self._waiters, []
            self._wanted = False
            last = self._closing
        try:
            _write(connection, operations)
        except sqlite3.Error as error:
            text = str(error)
            if not self._error:
                self._tell(self._log.error, "durable queues cannot be written", file=self.path, reason=text)
            self._error = text
            with self._condition:
                # In memory it has happened: the disk has to catch up.
                self._operations[:0] = operations
                self._wanted = True
                if not last:
                    self._condition.wait_for(lambda: self._closing, _RETRY)
        else:
            self._error = ""
        self._tell(_answer, waiters, self._error)
        return not last

    def _tell(self, function: Any, *arguments: Any, **keywords: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(lambda: function(*arguments, **keywords))


class _Each:
    """One value each time; of many, the rows are made by who writes them, as often as it has to."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[tuple[Any]]:
        return zip(self._values)


def _write(connection: sqlite3.Connection, operations: list[Operation]) -> None:
    if not operations:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement, rows in operations:
            connection.executemany(statement, rows)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _answer(waiters: list[asyncio.Future[None]], error: str) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error:
            waiter.set_exception(StoreFailed(error))
        else:
            waiter.set_result(None)


def _read(connection: sqlite3.Connection) -> list[Row]:
    rows = {
        name: Row(name, uid, created, pb.QueueOptions.FromString(options), [])
        for name, uid, created, options in connection.execute("SELECT * FROM queues ORDER BY name")
    }
    for row in connection.execute("SELECT * FROM messages ORDER BY id"):
        number, queue, priority, type_, kind, owner, sent, until, held, deliveries, tag, data = row
        message = Message(priority, type_, data, (Key(kind, owner),), sent, number, tag, deliveries, bool(held), until)
        rows[queue].messages.append(message)
    return list(rows.values())
