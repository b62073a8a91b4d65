"""Semaphores, by each road and both faces."""

from __future__ import annotations

import asyncio

import pytest
from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb
from ipcd_client.pb.ipcd.v1 import semaphore_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, Empty, TimedOut
from ipcd_client.primitives.place import Place
from primitives.roads import Road
from primitives.semaphores import FACES, Face, run

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
                    # The handle of a waiter may be closed: that does not touch who waits by another.
                    assert not waiter.done()
                    await other.release()
                    assert await waiter
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
