"""What becomes of an acquisition that nobody waits for any more, just as it is granted; and of what is held when its
handle is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from integration.daemons import LONG, eventually
from ipcd_client import aio
from ipcd_client.pb.ipcd.v1 import lock_pb2_grpc
from ipcd_client.primitives import lock, lock_session, loop_lock
from ipcd_client.primitives.errors import TimedOut
from ipcd_client.rpc.failure import CallFailed
from primitives.lock_faces import Face
from primitives.roads import Road

pytestmark = pytest.mark.usefixtures("grpc_aio")


class Late:
    """A stub whose sessions are late with answers."""

    def __init__(self, channel: Any, call: type[LateCall] | None = None) -> None:
        self._stub: Any = lock_pb2_grpc.LockStub(channel)
        self._made = call or LateCall
        self.Look = self._stub.Look

    def Hold(self, *requests: Any) -> Any:
        return self._made(self._stub.Hold(*requests))


class LateCall:
    """Has answers only while `open` is set. `on_answer`: called when one comes."""

    open = threading.Event()
    on_answer: Sequence[Callable[[], object]] = ()

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Any:
        for reply in self._call:
            assert self.open.wait(LONG)
            yield reply

    async def __aiter__(self) -> Any:
        async for reply in self._call:
            assert await asyncio.to_thread(self.open.wait, LONG)
            for act in self.on_answer:
                act()
            yield reply


class Giving:
    """Gives acquisitions of a session up once they were granted: `how`, a face, and when its answer comes for those who
    are cancelled."""

    def __init__(self, how: str, face: Face, held: Any, look: Callable[[], Any], patch: pytest.MonkeyPatch) -> None:
        self._how = how
        self._face = face
        self._held = held
        self._look = look
        self._patch = patch

    def up(self, *range_: int, granted: Callable[[Any], bool], **keywords: Any) -> None:
        """One that is granted at once."""
        LateCall.open.clear()
        try:
            if self._how == "no answer":
                with self._patch.context() as patch:
                    # Before the answer, which cannot come.
                    patch.setattr(lock_session, "deadline_of", lambda _: 0.05)
                    with pytest.raises(CallFailed, match="no answer came"):
                        self._held.acquire(*range_, **keywords)
            else:
                self._face.run(self._cancelled(range_, keywords, granted))
        finally:
            LateCall.open.set()
            LateCall.on_answer = ()

    async def _cancelled(self, range_: Any, keywords: Any, granted: Callable[[Any], bool]) -> None:
        task = asyncio.ensure_future(self._held._real.acquire(*range_, **keywords))
        await asyncio.sleep(0)
        await asyncio.to_thread(eventually, lambda: granted(self._look()), "it is granted")
        if self._how == "with the answer":
            loop = asyncio.get_running_loop()
            LateCall.on_answer = [lambda: loop.call_soon(task.cancel)]
            LateCall.open.set()
        else:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


WAYS = [("sync", "no answer"), ("aio", "before the answer"), ("aio", "with the answer")]


@pytest.mark.parametrize(("kind", "how"), WAYS)
def test_nothing_more_is_held_than_before(road: Road, kind: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_made", lambda channel: lock._Made(channel, Late(channel)))
    monkeypatch.setattr(loop_lock, "_stub", Late)
    LateCall.open.set()
    face = Face(kind)
    look_at = lock.lock(road.name("x"), **road.keywords)

    def ranges(info: Any = None) -> list[tuple[int, int, bool]]:
        info = look_at.look() if info is None else info
        return sorted((party.start, party.length, party.shared) for party in info.holders)

    try:
        with face.lock(road.name("x"), road).session() as held:
            giving = Giving(how, face, held, look_at.look, monkeypatch)
            held.acquire(0, 10)
            held.acquire(20, 10, shared=True)
            before = [(0, 10, False), (20, 10, True)]
            for range_, more in (((5, 0), (0, 0, False)), ((20, 10), (20, 10, False)), ((40, 5), (40, 5, False))):

                def granted(info: Any, more: tuple[int, int, bool] = more) -> bool:
                    return more in ranges(info)

                giving.up(*range_, granted=granted)
                eventually(lambda: ranges() == before, f"what it held before {range_}")
            giving.up(15, 20, shared=True, granted=lambda info: (15, 20, True) in ranges(info))
            eventually(lambda: ranges() == before, "what it held before it shared more")
            # The session goes on.
            held.acquire(5, 10)
            held.unlock(20, 5)
            assert ranges() == [(0, 15, False), (25, 5, True)]
        assert ranges() == []
    finally:
        face.close()


class SlowCall(LateCall):
    """Writes only while `room` is set; one that is cancelled meanwhile ends the call, as with grpc.aio."""

    room: asyncio.Event
    writing: asyncio.Event

    async def write(self, request: Any) -> None:
        self.writing.set()
        try:
            await self.room.wait()
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        await self._call.write(request)


def test_one_that_is_cancelled_before_it_is_sent(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lock, "_stub", lambda channel: Late(channel, SlowCall))
    LateCall.open.set()

    async def cancelled() -> None:
        SlowCall.room, SlowCall.writing = asyncio.Event(), asyncio.Event()
        SlowCall.room.set()
        keywords = road.loop_keywords()
        handle = aio.lock(road.name("x"), **keywords)
        async with await handle.session() as held:
            await held.acquire(0, 10)
            SlowCall.room.clear()
            SlowCall.writing.clear()
            # The first is being written, the other waits for that.
            tasks = [asyncio.create_task(held.acquire(start, 10)) for start in (20, 40)]
            await SlowCall.writing.wait()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            SlowCall.room.set()
            await held.acquire(60, 10)
            info = await handle.look()
            assert sorted(party.start for party in info.holders) == [0, 60]
            held.check()
        await handle.close()
        if "channel" in keywords:
            await keywords["channel"].close()

    asyncio.run(cancelled())


def test_what_is_held_stays_so_when_the_handle_is_closed(road: Road, lock_face: Face) -> None:
    handle = lock_face.lock(road.name("x"), road)
    held = handle.acquire()
    handle.close()
    held.check()
    token = held.token
    assert held.acquire() > token
    with pytest.raises(TimedOut):
        lock_face.lock(road.name("x"), road, party="other").acquire(0)
    # It takes its connection up again, and lets go of it again; the plugin sees whether all went.
    assert handle.look().holder_count == 1
    handle.close()
    assert not held.lost
    held.release()
    with handle as again:
        handle.close()
        again.check()
    handle.close()
