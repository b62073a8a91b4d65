"""What durable queues have on the disk, and what becomes of them when that fails."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb

from ipcd import limits
from ipcd.log import Log
from ipcd.primitives import queue_store
from ipcd.primitives.queue_store import Row, Store, StoreFailed
from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_message import Message
from ipcd.state.queue_waiters import Sender
from ipcd.state.quota import Key, Owner, Shares

OWNER: Owner = (Key("uid", "uid 7"),)


def message(number: int, data: bytes = b"x") -> Message:
    return Message(3, 2, data, OWNER, 5.0, number)


def read(folder: Path) -> list[Row]:
    """What a daemon would find there."""

    async def main() -> list[Row]:
        store = Store(folder, Log("a"))
        try:
            return await store.open()
        finally:
            await store.close()

    return asyncio.run(main())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path, Log("a"))
        assert await store.open() == []
        store.make("q", 7, 1.5, pb.QueueOptions(messages=9))
        for number in (1, 2, 3):
            store.put("q", message(number, bytes([0, number])))
        held = message(2)
        held.held, held.until, held.deliveries, held.tag = True, 99.0, 2, 1 << 62
        store.mark("q", held)
        store.delete("q", [3])
        await asyncio.gather(*(store.commit() for _ in range(5)))
        # All of it has gone along with that.
        assert store._later is None
        # Nobody waits for this one.
        store.mark("q", message(1))
        await store.close()
        with pytest.raises(StoreFailed, match="the node is stopping"):
            await store.commit()

    asyncio.run(main())
    assert (tmp_path / "queues.db").stat().st_mode & 0o077 == 0
    ((name, uid, created, options, messages),) = read(tmp_path)
    assert (name, uid, created, options.messages) == ("q", 7, 1.5, 9)
    assert [(one.id, one.data, one.priority, one.type, one.owner) for one in messages] == [
        (1, b"\0\1", 3, 2, OWNER),
        (2, b"\0\2", 3, 2, OWNER),
    ]
    assert (messages[1].held, messages[1].until, messages[1].deliveries, messages[1].tag) == (True, 99.0, 2, 1 << 62)


def test_a_disk_that_fails_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = queue_store._write
    broken = True

    def write(connection: sqlite3.Connection, operations: Any) -> None:
        if broken:
            raise sqlite3.OperationalError("database or disk is full")
        real(connection, operations)

    monkeypatch.setattr(queue_store, "_write", write)
    monkeypatch.setattr(queue_store, "_RETRY", 0.01)

    async def main() -> None:
        nonlocal broken
        store = Store(tmp_path, Log("a"))
        await store.open()
        store.make("q", 7, 1.5, pb.QueueOptions())
        store.put("q", message(1))
        with pytest.raises(StoreFailed, match="disk is full"):
            await store.commit()
        with pytest.raises(StoreFailed, match=r"queues.db: database or disk is full"):
            store.check()
        broken = False
        async with asyncio.timeout(20):
            while True:
                try:
                    store.check()
                    break
                except StoreFailed:
                    await asyncio.sleep(0.01)
        await store.close()

    asyncio.run(main())
    assert [one.id for row in read(tmp_path) for one in row.messages] == [1]


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    read(tmp_path)
    connection = sqlite3.connect(tmp_path / "queues.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreFailed, match="it is of version 99, and this daemon knows 1"):
        read(tmp_path)


def test_what_an_owner_has_sent_is_bounded_also_while_it_waits() -> None:
    each = 10 + limits.QUEUE_OVERHEAD
    shares = Shares("bytes in queues", 1 << 30, {"uid": 3 * each})
    options = completed(pb.QueueOptions(messages=1))
    queue = Queue("q", options, Around(Numbers(), shares, lambda *_: False))
    assert queue.send([message(0, bytes(10))], 0.0, wait=True) == [1]
    waiting = queue.send([message(0, bytes(10)), message(0, bytes(10))], 0.0, wait=True)
    assert isinstance(waiting, Sender)
    with pytest.raises(limits.LimitReached, match=f"the limit of {3 * each} bytes in queues of one uid is reached"):
        queue.send([message(0)], 0.0, wait=True)
    queue.leave(waiting, 0.0)
    assert shares.used == each
    gone = queue.clear()
    assert (len(gone), len(queue), shares.used) == (1, 0, each)
    for _ in gone.pieces():
        pass
    assert shares.used == 0


def test_what_nobody_waits_for_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop, written = asyncio.get_running_loop(), asyncio.Event()

        def write(connection: sqlite3.Connection, operations: list[tuple[str, Any]]) -> None:
            plain(connection, operations)
            if operations:
                loop.call_soon_threadsafe(written.set)

        plain = queue_store._write
        monkeypatch.setattr(queue_store, "_write", write)
        store = Store(tmp_path, Log("a"))
        await store.open()
        store.make("q", 7, 1.5, pb.QueueOptions())
        store.put("q", message(1))
        async with asyncio.timeout(20):
            await written.wait()
        await store.close()

    asyncio.run(main())
    (row,) = read(tmp_path)
    assert [one.id for one in row.messages] == [1]


def test_a_file_with_nonsense_in_it_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    with sqlite3.connect(tmp_path / "queues.db") as connection:
        connection.execute("INSERT INTO queues VALUES ('q', 0, 0, x'ffff')")
    connection.close()
    with pytest.raises(StoreFailed, match=r"queues\.db"):
        read(tmp_path)
