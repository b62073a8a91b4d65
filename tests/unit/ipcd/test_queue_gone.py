"""What is thrown away of a queue is gone at once, and is freed a piece at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb

from ipcd.log import Log
from ipcd.primitives.queue_boxes import Boxes
from ipcd.primitives.queue_store import Store
from ipcd.state.queue import Around, Numbers, Queue
from ipcd.state.queue_asked import completed
from ipcd.state.queue_gone import PIECE, Gone
from ipcd.state.queue_message import Message
from ipcd.state.quota import Key, Owner, Shares

OWNER: Owner = (Key("uid", "uid 7"),)
# Ready, delayed, held.
COUNTS = (2 * PIECE + 1, PIECE + 1, 3)


class Disk:
    """(queue_message.Kept)"""

    def __init__(self) -> None:
        self.deleted: list[list[int]] = []

    def put(self, queue: str, message: Message) -> None:
        pass

    def mark(self, queue: str, message: Message) -> None:
        pass

    def delete(self, queue: str, numbers: Any) -> None:
        self.deleted.append(sorted(numbers))


def filled(shares: Shares, disk: Disk | None = None) -> Queue:
    ready, delayed, held = COUNTS
    options = completed(pb.QueueOptions(messages=sum(COUNTS), durable=disk is not None))
    queue = Queue("q", options, Around(Numbers(), shares, lambda *_: False, disk))
    queue.send([Message(0, 1, b"h", OWNER) for _ in range(held)], 0.0, wait=False)
    queue.receive(0, held, 30.0, 0.0)
    # Of as many types as messages, which is most for each of them to be freed.
    queue.send([Message(0, number, b"r", OWNER) for number in range(1, ready + 1)], 0.0, wait=False)
    queue.send([Message(0, 1, b"d", OWNER, until=60.0) for _ in range(delayed)], 0.0, wait=False)
    assert (queue.ready, queue.delayed, queue.held) == COUNTS
    return queue


def sizes(gone: Gone) -> int:
    """Of all that is in its memory yet."""
    ready, delayed, *_ = cast("Any", gone._parts)
    types = sum(1 + len(of_type.messages) + len(of_type.heap.all) for of_type in ready._types.values())
    heaps = [ready._next.all, ready._oldest.all, ready._lowest.all, delayed._heap.all]
    return sum(map(len, (ready.messages, delayed.messages, *heaps))) + types


def test_it_is_gone_at_once_and_freed_a_piece_at_a_time() -> None:
    shares, disk = Shares("bytes", 1 << 30, {}), Disk()
    queue = filled(shares, disk)
    each, before = shares.used // sum(COUNTS), shares.used
    gone = queue.purge(1.0)
    assert len(gone) == sum(COUNTS[:2])
    assert (queue.ready, queue.delayed, queue.held, queue.bytes) == (0, 0, COUNTS[2], COUNTS[2])
    # On the disk all of it is one change.
    assert disk.deleted == [list(range(COUNTS[2] + 1, sum(COUNTS) + 1))]
    assert shares.used == before
    # What is sent meanwhile is not part of it.
    assert queue.send([Message(0, 5, b"new", OWNER)], 1.0, wait=False) == [sum(COUNTS) + 1]
    left, used = sizes(gone), shares.used
    for _ in gone.pieces():
        assert used - shares.used <= PIECE * each
        # A type is at least one, besides what is in it.
        assert left - sizes(gone) <= 2 * PIECE
        left, used = sizes(gone), shares.used
    assert sizes(gone) == 0
    assert [message.data for message in queue.peek(0, 9)] == [b"new"]
    assert shares.used == COUNTS[2] * each + each + 2
    rest = queue.clear()
    assert (len(rest), len(queue)) == (COUNTS[2] + 1, 0)
    assert not disk.deleted[1:]
    for _ in rest.pieces():
        pass
    assert shares.used == 0


def test_others_go_on_meanwhile_and_it_goes_on_where_the_caller_goes() -> None:
    shares = Shares("bytes", 1 << 30, {})

    async def main() -> None:
        boxes = Boxes(cast("Any", None))
        freed = asyncio.ensure_future(boxes.free(filled(shares).purge(1.0)))
        seen = set()
        while not freed.done():
            await asyncio.sleep(0)
            seen.add(shares.used)
        assert len(seen) >= sum(COUNTS[:2]) // PIECE
        left = shares.used
        caller = asyncio.ensure_future(boxes.free(filled(shares).clear()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(*boxes._freeing)
        assert caller.cancelled()
        assert shares.used == left
        await boxes.close()

    asyncio.run(main())


def test_a_removed_queue_goes_from_the_disk_with_all_that_is_in_it(tmp_path: Path) -> None:
    async def main() -> list[tuple[str, list[int]]]:
        store = Store(tmp_path, Log("a"))
        await store.open()
        for name, numbers in (("a", (1, 2, 3)), ("b", (4, 5))):
            store.make(name, 7, 1.5, pb.QueueOptions())
            for number in numbers:
                store.put(name, Message(0, 1, b"x", OWNER, 5.0, number))
        store.delete("b", [4])
        store.remove("a")
        # One of the same name is another.
        store.make("a", 7, 1.5, pb.QueueOptions())
        store.put("a", Message(0, 1, b"x", OWNER, 5.0, 6))
        await store.close()
        again = Store(tmp_path, Log("a"))
        try:
            return [(row.name, [message.id for message in row.messages]) for row in await again.open()]
        finally:
            await again.close()

    assert asyncio.run(main()) == [("a", [6]), ("b", [5])]
