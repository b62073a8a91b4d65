"""What values' bytes are kept in, how much of that there may be, and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ipcd_client.pb.ipcd.v1 import value_pb2
from ipcd_client.primitives import sealed, values
from ipcd_client.primitives.errors import BadMemory, BadRequest, Lost, TimedOut
from ipcd_client.primitives.values import INLINE
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.log import Log
from ipcd.primitives import pieces
from ipcd.primitives.contents import Content, Store, Writing
from ipcd.primitives.tickets import Tickets
from ipcd.primitives.value_cache import CacheServicer
from ipcd.state import quota
from ipcd.state.value import LEAST, MOST, Values, number_of

SIZE = 1 << 20


def made(data: bytes, seals: int = sealed.SEALS) -> Fd:
    memory = Fd(os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    sealed.write(memory, data, 0)
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, seals)
    return memory


def test_sealed_memory_is_mapped_and_cannot_change() -> None:
    data = os.urandom(SIZE)
    with made(data) as memory:
        view = sealed.mapped(memory, SIZE)
        with pytest.raises(PermissionError):
            os.pwrite(memory.fileno(), b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fileno(), 0)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, 0)
    assert view == data
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL])
def test_memory_that_lacks_a_seal_is_not_mapped(seal: int) -> None:
    with made(bytes(SIZE), sealed.SEALS & ~seal) as memory, pytest.raises(BadMemory):
        sealed.mapped(memory, SIZE)


def test_what_is_no_such_memory_is_not_mapped() -> None:
    with made(bytes(SIZE)) as memory, pytest.raises(BadMemory, match=f"{SIZE} bytes, {SIZE + 1} were said"):
        sealed.mapped(memory, SIZE + 1)
    reader, writer = os.pipe()
    os.close(writer)
    with Fd(reader) as pipe, pytest.raises(BadMemory, match="no memfd"):
        sealed.mapped(pipe, SIZE)
    reply = value_pb2.ValueReply(more=True)
    with pytest.raises(BadMemory, match="0 descriptors"):
        values.mapped(reply, [])


def test_replies_that_do_not_add_up() -> None:
    info = value_pb2.ValueInfo(version=1, size=4)
    for data in ([b"abc"], [b"abc", b"de"]):
        gathered = values.Gathered()
        gathered.take(value_pb2.ValueReply(info=info, more=True))
        with pytest.raises(BadMemory):
            _all(gathered, data)
    with pytest.raises(BadMemory):
        values.Gathered().done()


def test_there_is_no_memory_for_what_is_only_said() -> None:
    gathered = values.Gathered()
    gathered.take(value_pb2.ValueReply(info=value_pb2.ValueInfo(version=1, size=1 << 62), more=True))
    with pytest.raises(BadMemory, match=f"ended after 2 of {1 << 62} bytes"):
        _all(gathered, [b"ab"])


def test_sealed_memory_of_no_bytes_is_no_value() -> None:
    with made(b"") as memory, pytest.raises(BadMemory, match="no bytes"):
        sealed.mapped(memory, 0)


def test_of_what_a_home_says_only_what_is_needed_is_kept_with_a_copy() -> None:
    size = INLINE + 1
    said = value_pb2.ValueInfo(version=7, epoch="e", size=size, node="c" * 4096)
    said.MergeFromString(b"\xfa\x07\x04more")  # a field that nobody knows here

    class Home:
        async def call(self, *_: object) -> value_pb2.ValueReply:
            return value_pb2.ValueReply(info=said, more=True)

        async def stream(self, *_: object) -> AsyncIterator[value_pb2.ValueReply]:
            yield value_pb2.ValueReply(info=said, more=True)
            yield value_pb2.ValueReply(data=bytes(size))

        async def close(self) -> None:
            pass

    async def main() -> None:
        keeper: Any = SimpleNamespace(nodes=Home, log=Log("a"))
        there: Any = None
        cache = CacheServicer(keeper, there, there)
        cache.start()
        try:
            ask, handed = value_pb2.ValueGetRequest(name="x"), lambda *_: None
            reply = await cache._there(("b", "x"), ask, "", handed)
            assert reply.info == value_pb2.ValueInfo(version=7, epoch="e", size=size, node="b")
            said.epoch = "e" * (limits.NAME + 1)
            with pytest.raises(BadRequest, match="256 characters"):
                await cache._there(("b", "y"), ask, "", handed)
            assert cache._bytes == size
        finally:
            await cache.close()

    asyncio.run(main())


def _all(gathered: values.Gathered, pieces: list[bytes]) -> None:
    for piece in pieces:
        gathered.take(value_pb2.ValueReply(data=piece))
    gathered.done()


@pytest.mark.parametrize("size", [0, 1, INLINE, INLINE + 1])
def test_bytes_that_do_not_add_up_are_no_content(size: int) -> None:
    with Writing(size) as writing, pytest.raises(BadRequest, match="more than"):
        writing.put(bytes(size + 1))
    if size:
        with Writing(size) as writing:
            writing.put(bytes(size - 1))
            with pytest.raises(BadRequest, match=f"ended after {size - 1} of the {size}"):
                writing.done()
    with Writing(size) as writing:
        writing.put(b"x" * size)
        content = writing.done()
    assert b"".join(content.pieces()) == b"x" * size
    assert (content.memory is not None) == (size > INLINE)
    if content.memory is not None:
        content.memory.close()


def test_what_is_kept_is_counted_for_its_owner() -> None:
    store = Store()
    one, other = quota.local(1, 1), quota.local(2, 2)
    contents = [store.content(bytes(size), one) for size in (0, 5, INLINE + 1)]
    assert store.used == INLINE + 6
    for content in contents:
        store.drop(content)
    store.drop(None)
    assert store.used == 0
    most = limits.VALUE_BYTES_EACH["process"]
    store.take(one, most)
    with pytest.raises(limits.LimitReached, match="bytes of values of one process"):
        store.content(b"x", one)
    store.take(other, most)
    with pytest.raises(limits.LimitReached, match=f"the limit of {limits.VALUE_BYTES} bytes of values is reached"):
        store.take(quota.local(3, 3), limits.VALUE_BYTES - 2 * most + 1)
    store.give(one, most)
    store.give(other, most)
    with pytest.raises(limits.LimitReached, match="bytes of one value"):
        store.take(one, limits.VALUE + 1)
    for _ in range(limits.VALUE_MEMORIES_EACH["process"]):
        store.take(one, INLINE + 1)
    before = store.used
    with pytest.raises(limits.LimitReached, match="values with memory of their own"):
        store.take(one, INLINE + 1)
    assert store.used == before


def test_what_is_read_stays_up_to_a_bound() -> None:
    size = INLINE + 1
    one = quota.local(1, 1)
    store = Store(old=3, old_bytes=2 * size)
    small = store.content(b"few", one)
    with store.reading(small) as data:
        store.drop(small)
        assert list(data) == [b"few"]
    assert store.old == (0, 0)
    with contextlib.ExitStack() as stack:
        contents = [store.content(bytes([number]) * size, one) for number in range(3)]
        reads = [stack.enter_context(store.reading(each)) for each in contents]
        again = stack.enter_context(store.reading(contents[1]))
        for each in contents[:2]:
            store.drop(each)
        # They count for nobody but those who read.
        assert (store.used, store.old) == (size, (2, 2 * size))
        assert next(reads[1]) == bytes([1]) * size
        store.drop(contents[2])
        assert (store.used, store.old) == (0, (2, 2 * size))
        with pytest.raises(Lost, match="read it again"):
            next(reads[0])
        assert next(reads[2]) == bytes([2]) * size
        assert next(again) == bytes([1]) * size
    assert store.old == (0, 0)
    few = Store(old=1)
    with contextlib.ExitStack() as stack:
        contents = [few.content(bytes(size), one) for _ in range(2)]
        reads = [stack.enter_context(few.reading(each)) for each in contents]
        for each in contents:
            few.drop(each)
        assert few.old == (1, size)
        few.close()
        with pytest.raises(Lost):
            next(reads[1])
    assert few.old == (0, 0)


def test_a_piece_that_is_not_taken_in_time_ends_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VALUE_PIECE", 0.01)

    class Stalled:
        async def write(self, *_: object) -> None:
            await asyncio.Event().wait()

        read = write

    context: Any = Stalled()

    async def main() -> None:
        with pytest.raises(TimedOut, match=r"no further piece of the value was taken within 0\.01 s"):
            await pieces.sent(context, value_pb2.ValueReply())
        with pytest.raises(TimedOut, match=r"no further piece of the value came within 0\.01 s"):
            await pieces.received(context)

    asyncio.run(main())


def test_memory_that_a_process_writes_becomes_a_content() -> None:
    size = INLINE + 1
    one, other = quota.local(1, 1), quota.local(1, 2)
    store = Store()

    async def main() -> None:
        tickets = Tickets(store)
        ticket, memory = tickets.issue(one, size)
        for wrong in ((other, size), (one, size + 1)):
            with pytest.raises(Lost):
                await tickets.redeem(ticket, *wrong)
        with memory:
            with pytest.raises(PermissionError):
                os.ftruncate(memory.fileno(), size + 1)
            list(values.written(memory, memoryview(b"x" * size)))
        content = await tickets.redeem(ticket, one, size)
        assert b"".join(content.pieces()) == b"x" * size
        with pytest.raises(Lost):
            await tickets.redeem(ticket, one, size)
        store.drop(content)
        assert store.used == 0
        # Holes in it would be filled when somebody reads it, if there is memory then.
        ticket, memory = tickets.issue(one, size)
        memory.close()
        with pytest.raises(BadRequest, match="not written whole"):
            await tickets.redeem(ticket, one, size)
        assert store.used == 0
        # Nobody can write to it afterwards.
        ticket, memory = tickets.issue(one, size)
        with memory, mmap.mmap(memory.fileno(), size) as mapping:
            mapping[:] = bytes(size)
            with pytest.raises(BadRequest, match="cannot be sealed"):
                await tickets.redeem(ticket, one, size)
        assert store.used == 0
        # But who only needs a moment to let go of it has that.
        ticket, memory = tickets.issue(one, size)
        with memory, mmap.mmap(memory.fileno(), size) as mapping:
            mapping[:] = bytes(size)
            asyncio.get_running_loop().call_soon(mapping.close)
            store.drop(await tickets.redeem(ticket, one, size))
        assert store.used == 0
        with pytest.raises(BadRequest, match="no memory of their own"):
            tickets.issue(one, INLINE)
        ticket, memory = tickets.issue(one, size)
        memory.close()
        tickets.forget(ticket)
        tickets.forget(ticket)
        assert store.used == 0
        _, memory = tickets.issue(one, size)
        memory.close()
        tickets.close()
        assert store.used == 0

    asyncio.run(main())


def test_numbers() -> None:
    for text, number in ((b"0", 0), (b" +7\n", 7), (b"-12", -12), (b"%d" % LEAST, LEAST), (b"%d" % MOST, MOST)):
        assert number_of("v", text) == number
    for wrong in (None, b"", b"-", b"1.5", b"1_0", b"0x1", b"%d" % (MOST + 1), b"%d" % (LEAST - 1), "٣".encode()):
        with pytest.raises(BadRequest, match="no number of 64 bits"):
            number_of("v", wrong)


def test_ends_of_values_that_were_set_again_do_not_heap_up() -> None:
    content = Store().content(b"x", ())
    held: Values[Content] = Values()
    for now in range(10_000):
        held.set("v", content, float(now), ttl=1e6)
    assert len(held._ends) < 100
    assert held.expire(9_999 + 1e6 - 1) == []
    assert [one.name for one in held.expire(9_999 + 1e6)] == ["v"]
