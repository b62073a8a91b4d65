"""Semaphores, by each road and both faces."""

from __future__ import annotations

import asyncio
import contextlib
import os
from threading import Barrier
from typing import Any

import pytest
from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.pb.ipcd.v1 import semaphore_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Empty, Full, Lost, NameTaken, NoSuchName, TimedOut
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.semaphore import Semaphore
from primitives.roads import Road
from primitives.semaphores import FACES, Face, plain, run

LONG = 20.0


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Face:
    return Face(request.param, road)


def look(road: Road, name: str) -> pb.SemaphoreLookReply:
    """As its home shows it."""
    place = Place("semaphore", road.name(name), road.front.socket)
    request = pb.SemaphoreLookRequest(name=road.name(name))
    try:
        reply: pb.SemaphoreLookReply = place.run(
            semaphore_pb2_grpc.SemaphoreStub, lambda stub: stub.Look(request, timeout=LONG)
        )
        return reply
    finally:
        place.close()


async def waiting(road: Road, name: str, count: int) -> pb.SemaphoreInfo:
    """Once so many wait."""
    end = asyncio.get_running_loop().time() + LONG
    while True:
        info = (await asyncio.to_thread(look, road, name)).semaphores[0]
        if info.waiting == count:
            return info
        assert asyncio.get_running_loop().time() < end, info
        await asyncio.sleep(0.01)


def test_counting(face: Face) -> None:
    async def main() -> None:
        async with face.handle("s", 3) as s, face.handle("s") as other:
            first = await s.acquire(2)
            assert await other.get_value() == 1
            with pytest.raises(Empty, match="has 1 where 2 is wanted"):
                await other.acquire(2, wait=0)
            assert await other.try_acquire(2) is None
            second = await other.try_acquire()
            assert second > first
            with pytest.raises(TimedOut, match="s are over"):
                await s.acquire(wait=0.05)
            await s.release()
            assert await other.get_value() == 1
            await s.release()
            await other.release()
            assert await s.get_value() == 3
            with pytest.raises(BadRequest, match="this handle has taken 0"):
                await s.release()

    run(main)


def test_what_is_held_is_given_back(face: Face) -> None:
    async def main() -> None:
        async with face.handle("s", 2) as s:
            async with face.handle("s", 2) as other:
                await other.acquire(2)
                async with face.handle("s") as third:
                    waiter = asyncio.create_task(third.acquire(wait=LONG))
                    await waiting(face.road, "s", 1)
                    assert not waiter.done()
                    await other.release()
                    assert await waiter
                # Who ends its handle gives back what it held.
                assert await s.get_value() == 1
            assert await s.get_value() == 2
            async with await s.hold(2) as hold:
                assert await s.get_value() == 0
                await hold.give_back()
                assert await s.get_value() == 1
                with pytest.raises(BadRequest, match="1 are held"):
                    await hold.give_back(2)
            assert await s.get_value() == 2
            with pytest.raises(ZeroDivisionError):
                async with await s.hold() as hold:
                    raise ZeroDivisionError
            assert await s.get_value() == 2
            assert not hold.lost

    run(main)


def test_posix_style(face: Face) -> None:
    """What is taken is taken for good, and anybody puts in."""

    async def main() -> None:
        async with face.handle("s", 1, undo=False) as s:
            first = await s.acquire()
            waiter = asyncio.create_task(s.acquire(2))
            assert (await waiting(face.road, "s", 1)).held == 0
            async with face.handle("s", undo=False) as other:
                await other.release()
                assert not waiter.done()
                await other.release(3)
            assert await waiter > first
        async with face.handle("s", undo=False) as s:
            assert await s.get_value() == 2
            with pytest.raises(Full, match="at most 2147483647"):
                await s.release(2**31 - 1)

    run(main)


def test_in_order(face: Face) -> None:
    """One that wants little does not overtake one that wants much."""

    async def main() -> None:
        async with face.handle("s", 3, undo=False) as s:
            await s.acquire(2)
            came: list[str] = []

            async def take(name: str, count: int) -> None:
                await s.acquire(count)
                came.append(name)

            tasks = []
            for number, (name, count) in enumerate((("much", 3), ("little", 1), ("none more", 1))):
                tasks.append(asyncio.create_task(take(name, count)))
                await waiting(face.road, "s", number + 1)
            with pytest.raises(Empty, match="has 1 where 1 is wanted, and 3 came before"):
                await s.acquire(wait=0)
            await s.release()
            await waiting(face.road, "s", 3)
            assert came == []
            await s.release(2)
            await waiting(face.road, "s", 1)
            assert sorted(came) == ["little", "much"] or came == ["much"]
            await s.release()
            await asyncio.gather(*tasks)

    run(main)


def test_several_at_once(face: Face) -> None:
    async def main() -> None:
        async with face.handle("a", 1) as a, face.handle("b", 0) as b, face.handle("c", 0) as c:
            both = [(plain(a), -1), (plain(b), -1), (plain(c), 2)]
            with pytest.raises(Empty, match="has 0 where 1 is wanted"):
                await a.operate(both, wait=0)
            # None of it was done.
            assert (await a.get_value(), await c.get_value()) == (1, 0)
            waiter = asyncio.create_task(a.hold_all(both))
            await waiting(face.road, "b", 1)
            # It keeps nobody from the one that is free.
            await a.acquire(wait=0)
            await a.release()
            await b.operate({plain(b): 1})
            hold = await waiter
            assert [await one.get_value() for one in (a, b, c)] == [0, 0, 2]
            await c.operate([(plain(c), -1)])
            # As semop does with SEM_UNDO: as far as it goes.
            await hold.release()
            assert [await one.get_value() for one in (a, b, c)] == [1, 1, 0]
            with pytest.raises(BadRequest, match="at least one"):
                await a.operate([])

    run(main)


def test_waiting_for_none(face: Face) -> None:
    """The lock that System V's manuals make: wait until there is none, and put one in."""

    async def main() -> None:
        async with face.handle("s", 0) as s, face.handle("s") as other:
            step = [(plain(s), 0), (plain(s), 1)]
            hold = await s.hold_all(step)
            waiters = [asyncio.create_task(other.hold_all(step)) for _ in range(2)]
            await waiting(face.road, "s", 2)
            with pytest.raises(Empty, match="has 1 where 0 is wanted"):
                await s.operate({plain(s): 0}, wait=0)
            for _ in waiters:
                await hold.release()
                (done, *_), rest = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                waiters = list(rest)
                hold = done.result()
                assert await s.get_value() == 1
            await hold.release()

    run(main)


def test_names(face: Face) -> None:
    async def main() -> None:
        async with face.handle("s") as s, face.handle("s", 2) as two, face.handle("s", 3) as three:
            for attempt in (s.get_value(), s.acquire(wait=0), s.remove(), s.hold()):
                with pytest.raises(NoSuchName, match="there is no semaphore"):
                    await attempt
            await two.make()
            with pytest.raises(NameTaken, match="was made with 2, not 3"):
                await three.acquire()
            with pytest.raises(BadRequest, match="of one node"):
                await two.operate([(plain(two), -1), (f"x@{'a' if face.road.home.node == 'b' else 'b'}", -1)])
            with pytest.raises(NoSuchName, match="there is no semaphore nowhere"):
                await two.operate([(plain(two), -1), ("nowhere", -1)])
            for wrong in (0, -1, 2**31):
                with pytest.raises(BadRequest):
                    await two.acquire(wrong)
            assert await two.get_value() == 2
            await two.remove()
            with pytest.raises(NoSuchName):
                await s.get_value()
            # Made anew, with what this one says.
            assert await three.acquire() > 0
        for wrong_value in (-1, 2**31):
            with pytest.raises(BadRequest):
                async with face.handle("s", wrong_value):
                    pass

    run(main)


def test_removed_while_held_and_waited_for(face: Face) -> None:
    async def main() -> None:
        async with face.handle("s", 1) as s, face.handle("other", 1) as other:
            hold = await s.hold_all([(plain(s), -1), (plain(other), -1)])
            gone = asyncio.Event()
            loop = asyncio.get_running_loop()
            hold.on_lost(lambda: loop.call_soon_threadsafe(gone.set))
            waiter = asyncio.create_task(s.acquire())
            await waiting(face.road, "s", 1)
            await s.remove()
            with pytest.raises(NoSuchName, match="has been removed"):
                await waiter
            async with asyncio.timeout(LONG):
                await gone.wait()
            assert hold.lost
            with pytest.raises(Lost, match="has been removed"):
                await hold.release()
            assert await other.get_value() == 1
            # A lost hold is said to be by the end of its block, unless the block says something else.
            lost = await other.hold()
            await other.remove()
            with pytest.raises(Lost):
                async with lost:
                    pass

    run(main)


def test_a_cancelled_waiter_takes_nothing(road: Road) -> None:
    async def main() -> None:
        face = Face("aio", road)
        async with face.handle("s", 0) as s:
            await s.make()
            for undo in (True, False):
                async with face.handle("s", undo=undo) as other:
                    task = asyncio.create_task(other.acquire())
                    await waiting(road, "s", 1)
                    task.cancel()
                    await asyncio.wait({task})
                    assert task.cancelled()
                    await waiting(road, "s", 0)
            await s.operate({s: 1})
            assert await s.get_value() == 1

    run(main)


def test_who_holds_and_who_waits_in_a_circle(face: Face) -> None:
    async def main() -> None:
        async with face.handle("a", 1) as a, face.handle("b", 1) as b:
            await a.make()
            await b.make()
            if face.kind == "aio":
                begun = asyncio.Barrier(2)
                tasks = [asyncio.create_task(in_task(*both, begun)) for both in ((a, b), (b, a))]
            else:
                barrier = Barrier(2)
                both_threads = ((a.thing, b.thing), (b.thing, a.thing))
                tasks = [asyncio.create_task(asyncio.to_thread(in_thread, *both, barrier)) for both in both_threads]
            await waiting(face.road, "a", 1)
            await waiting(face.road, "b", 1)
            reply = await asyncio.to_thread(look, face.road, "a")
            (circle,) = reply.circles
            ours = {face.road.name(name).partition("@")[0] for name in "ab"}
            assert {wait.name for wait in circle.waits} == ours
            parties = {wait.who.party for wait in circle.waits}
            assert len(parties) == 2
            (info,) = reply.semaphores
            assert (info.value, info.initial, info.held, info.waiting) == (0, 1, 1, 1)
            assert info.holders[0].party in parties
            assert info.waiters[0].party in parties - {info.holders[0].party}
            assert str(os.getpid()) in info.waiters[0].party
            if face.road.kind != "gateway":
                assert (info.waiters[0].node, info.waiters[0].pid) == ("a", os.getpid())
            await a.remove()
            await b.remove()
            await asyncio.gather(*tasks)

    run(main)


async def in_task(first: Any, second: Any, begun: asyncio.Barrier) -> None:
    """Takes one, and then wants the other, until one is removed."""
    with contextlib.suppress(Lost):
        async with await first.hold():
            await begun.wait()
            with contextlib.suppress(NoSuchName):
                await second.acquire()


def in_thread(first: Semaphore, second: Semaphore, begun: Barrier) -> None:
    """The same."""
    with contextlib.suppress(Lost), first.hold():
        begun.wait(LONG)
        with contextlib.suppress(NoSuchName):
            second.acquire()
