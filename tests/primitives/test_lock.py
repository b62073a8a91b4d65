"""Locks over every road and with both faces: verbs, times, order, circles, tokens, names."""

from __future__ import annotations

import asyncio
from typing import Any

import ipcd_client.aio
import pytest
from integration.daemons import LONG, eventually, until
from ipcd_client.primitives.errors import (
    BadRequest,
    Deadlock,
    InUse,
    Lost,
    NoSuchName,
    TimedOut,
)
from ipcd_client.rpc.failure import CallFailed
from primitives.lock_faces import Face, in_thread, waiters
from primitives.roads import Road

pytestmark = pytest.mark.usefixtures("grpc_aio")


@pytest.fixture(name="face")
def _face(lock_face: Face) -> Face:
    return lock_face


# -- what a lock is ------------------------------------------------------------------------------


def test_one_at_a_time_and_tokens_grow(road: Road, face: Face) -> None:
    lock = face.lock(road.name("x"), road)
    tokens = []
    for _ in range(3):
        with lock as held:
            tokens.append(held.token)
            assert not held.lost
            held.check()
            with pytest.raises(TimedOut, match="is not free: held by"):
                face.lock(road.name("x"), road, wait=0).acquire()
            with pytest.raises(TimedOut, match="was not free in time: held by"):
                face.lock(road.name("x"), road, party="other").acquire(0.05)
    assert tokens == sorted(set(tokens))
    assert lock.look().token == tokens[-1]
    held = lock.acquire()
    held.release()
    with pytest.raises(Lost, match="has been released"):
        _ = held.token


def test_who_waits_gets_it_when_it_is_free(road: Road, face: Face) -> None:
    lock = face.lock(road.name("x"), road)
    held = lock.acquire()
    first = held.token
    with in_thread(lambda: face.lock(road.name("x"), road).acquire()) as results:
        waiters(lock)
        held.release()
    (other,) = results
    assert other.token == first + 1
    other.release()
    other.release()


def test_shared_by_several_and_a_waiting_writer_comes_before_new_readers(road: Road, face: Face) -> None:
    lock = face.lock(road.name("x"), road)
    mine = face.lock(road.name("x"), road, party="mine").shared()
    readers = [mine.acquire() for _ in range(3)]
    assert len({reader.token for reader in readers}) == 1
    with in_thread(lock.acquire) as results:
        waiters(lock)
        with pytest.raises(TimedOut, match="has waited for it for longer"):
            face.lock(road.name("x"), road, party="new").shared().acquire(0)
        # Who is in its way need not wait behind it: both would wait for ever.
        mine.acquire(0).release()
        for reader in readers:
            assert not results
            reader.release()
    with results[0]:
        info = lock.look()
        assert [party.shared for party in info.holders] == [False]


def test_ranges_of_one_owner(road: Road, face: Face) -> None:
    name = road.name("x")
    lock = face.lock(name, road)

    def ranges() -> list[tuple[int, int, bool]]:
        return [(party.start, party.length, party.shared) for party in lock.look().holders]

    with lock.range(0, 100) as held:
        with lock.range(100, 50) as other:
            # Split, merged, shared, given back: its own is never in the way.
            assert other.acquire(140, 20, shared=True) == other.token
            assert held.acquire(40, 20, shared=True) == other.token
            assert ranges() == [(0, 40, False), (40, 20, True), (60, 40, False), (100, 40, False), (140, 20, True)]
            held.unlock(10, 80)
            other.acquire(10, 30)
            assert sorted(ranges()) == [(0, 10, False), (10, 30, False), (90, 60 - 50, False), *ranges()[-2:]]
            with pytest.raises(TimedOut):
                held.acquire(5, 10, wait=0)
            # What it had stays.
            assert (0, 10, False) in ranges()
        held.acquire(0)
        assert ranges() == [(0, 0, False)]
        held.downgrade()
        held.acquire(100, 0, shared=True)
        with lock.range(1 << 62).shared() as reader, pytest.raises(TimedOut):
            reader.upgrade(wait=0)
    with lock.session() as session:
        assert ranges() == []
        assert session.acquire((1 << 63) - 1, 1) == session.token
        assert ranges() == [((1 << 63) - 1, 0, False)]
        for start, length in ((1 << 63, 1), (0, (1 << 63) + 1), (1, 1 << 63)):
            with pytest.raises(BadRequest, match="a range begins at 0"):
                session.acquire(start, length)
        with pytest.raises(BadRequest, match="seconds to wait"):
            session.acquire(wait=-1)


def test_upgrading(road: Road, face: Face) -> None:
    name = road.name("x")
    lock = face.lock(name, road)
    one, two = (face.lock(name, road, party=party).shared().acquire() for party in ("one", "two"))
    with in_thread(one.upgrade) as results:
        waiters(lock)
        with pytest.raises(Deadlock, match="to wait for oneself"):
            two.upgrade()
        two.check()
        two.release()
    assert results == [one.token]
    one.release()


def test_circles_over_several_locks(road: Road, face: Face) -> None:
    """A party is found in whichever locks it has."""
    names = [road.name(name) for name in "abc"]
    locks = [face.lock(name, road) for name in names]
    held = [face.lock(name, road, party=f"party {number}").acquire() for number, name in enumerate(names)]

    def wait_for_next(number: int) -> Any:
        return face.lock(names[(number + 1) % 3], road, party=f"party {number}").acquire()

    with in_thread(lambda: wait_for_next(0)) as first, in_thread(lambda: wait_for_next(1)) as second:
        waiters(locks[1])
        waiters(locks[2])
        with pytest.raises(Deadlock):
            wait_for_next(2)
        # Others may wait for as long as they like.
        with pytest.raises(TimedOut):
            face.lock(names[0], road, party="none of them").acquire(0.05)
        held[2].release()
        eventually(lambda: second, "the second has it")
        second[0].release()
        held[1].release()
    first[0].release()
    held[0].release()


def test_a_thread_or_task_is_a_party(road: Road, face: Face) -> None:
    if face.kind == "sync":
        with face.lock(road.name("x"), road), pytest.raises(Deadlock):
            face.lock(road.name("x"), road).acquire()
        return

    async def main() -> None:
        keywords = road.loop_keywords()
        async with ipcd_client.aio.lock(road.name("x"), **keywords) as held:
            with pytest.raises(Deadlock):
                async with ipcd_client.aio.lock(road.name("x"), **keywords):
                    raise AssertionError
            assert held.token
        if "channel" in keywords:
            await keywords["channel"].close()

    asyncio.run(main())


def test_several_tasks_with_one_handle(road: Road) -> None:
    async def main() -> None:
        keywords = road.loop_keywords()
        lock = ipcd_client.aio.lock(road.name("x"), **keywords)
        inside = 0
        tokens = []

        async def use() -> None:
            nonlocal inside
            async with lock as held:
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                tokens.append(held.token)
                inside -= 1

        await asyncio.gather(*(use() for _ in range(8)))
        assert tokens == sorted(set(tokens))
        held = await lock.acquire()
        # Who is cancelled does not wait any more.
        task = asyncio.create_task(lock.acquire())
        await until(lambda: _waiting(lock, 1), "it waits")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: _waiting(lock, 0), "it does not wait any more")
        await held.release()
        await lock.close()
        if "channel" in keywords:
            await keywords["channel"].close()

    asyncio.run(main())


async def _waiting(lock: Any, count: int) -> bool:
    return bool((await lock.look()).waiter_count == count)


# -- names ---------------------------------------------------------------------------------------


def test_names(road: Road, face: Face) -> None:
    with pytest.raises(BadRequest):
        face.lock("a b", road)
    lock = face.lock(road.name("x"), road)
    for call in (lock.look, lock.remove):
        with pytest.raises(NoSuchName):
            call()
    with pytest.raises(BadRequest, match="party"):
        face.lock(road.name("x"), road, party="p" * 65).acquire()
    with pytest.raises(CallFailed, match="nowhere"):
        face.lock("x@nowhere", road).acquire()
    with lock, pytest.raises(InUse):
        lock.remove()
    lock.remove()
    with pytest.raises(NoSuchName):
        lock.look()


def test_one_name_is_one_lock_on_all_nodes(road: Road, face: Face) -> None:
    """Without a node it is kept where it was made first."""
    name = road.name("x").partition("@")[0]
    with face.lock(f"{name}@{road.home.node}", road):
        eventually(lambda: _same(face, name, road), "the name is known on the other node")


def _same(face: Face, name: str, road: Road) -> bool:
    # Where it was not known yet, the other node would say so when it is asked for the name.
    with pytest.raises(TimedOut):
        face.lock(name, road, party="other").acquire(0)
    return bool(face.lock(name, road).look().node == road.home.node)


def test_what_is_held_can_be_taken_away(road: Road, face: Face) -> None:
    lock = face.lock(road.name("x"), road)
    told: list[Exception] = []
    with pytest.raises(Lost, match="was removed"), lock as held:  # noqa: PT012
        held.on_lost(told.append)
        with in_thread(lambda: face.lock(road.name("x"), road).acquire()) as results:
            waiters(lock)
            lock.remove(force=True)
        assert isinstance(results[0], Lost)
        assert held.lost.wait(LONG)
        assert held.lost
        for use in (held.check, held.acquire, held.unlock, held.upgrade, held.downgrade, lambda: held.token):
            with pytest.raises(Lost, match="was removed"):
                use()
    eventually(lambda: told, "the callback was called")
    held.on_lost(told.append)
    assert len(told) == 2
    # What goes wrong within is not hidden.
    with pytest.raises(ValueError, match="mine"), lock as held:  # noqa: PT012
        lock.remove(force=True)
        assert held.lost.wait(LONG)
        raise ValueError("mine")
    # It is made again by who wants it next, and tokens go on.
    with lock as again:
        assert again.token
