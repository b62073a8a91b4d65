"""Locks over every road and with both faces: verbs, times, order, circles, tokens, and what becomes of them when
somebody dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.test_rules import US, Ruled, rule
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives.errors import (
    Ambiguous,
    BadRequest,
    Deadlock,
    InUse,
    Lost,
    NoSuchName,
    TimedOut,
)
from ipcd_client.rpc.failure import CallFailed
from primitives.lock_faces import FACES, Face, in_thread
from primitives.roads import Road

HOLDER = str(Path(__file__).with_name("lock_holder.py"))


@pytest.fixture(scope="module", autouse=True)
def _grpc_aio_runs() -> Iterator[None]:
    """grpcio's event loop machinery starts with its first use and lives on: not within a test."""

    async def run(function: Any) -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(run(grpc.aio.init_grpc_aio))
    yield
    with asyncio.Runner() as runner:
        runner.run(run(grpc.aio.shutdown_grpc_aio))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = Face(request.param)
    yield made
    made.close()


def waiters(lock: Any, count: int = 1) -> None:
    """Waits until so many wait for it."""
    eventually(lambda: lock.look().waiter_count == count, f"{count} wait")


class Holder:
    """lock_holder.py."""

    def __init__(self, socket: str, name: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HOLDER, socket, name, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def held(self) -> int:
        """The token."""
        word, token = self.line().split()
        assert word == "held"
        return int(token)

    def end(self) -> None:
        """As if nothing had been."""
        self.process.kill()
        self.process.communicate(timeout=LONG)


@contextmanager
def holder(socket: str, name: str, *words: str) -> Iterator[Holder]:
    made = Holder(socket, name, *words)
    try:
        yield made
    finally:
        made.end()


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
    readers = [face.lock(road.name("x"), road).shared().acquire() for _ in range(3)]
    assert len({reader.token for reader in readers}) == 1
    with in_thread(lambda: lock.acquire()) as results:
        waiters(lock)
        with pytest.raises(TimedOut, match="has waited for it for longer"):
            face.lock(road.name("x"), road, party="new").shared().acquire(0)
        # Who is in its way need not wait behind it: both would wait for ever.
        lock.shared().acquire(0).release()
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
        while not (await lock.look()).waiter_count:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await lock.look()).waiter_count:
            await asyncio.sleep(0.01)
        await held.release()
        await lock.close()
        if "channel" in keywords:
            await keywords["channel"].close()

    asyncio.run(main())


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
    with pytest.raises(Lost, match="was removed"), lock as held:
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
    with pytest.raises(ValueError, match="mine"), lock as held:
        lock.remove(force=True)
        assert held.lost.wait(LONG)
        raise ValueError("mine")
    # It is made again by who wants it next, and tokens go on.
    with lock as again:
        assert again.token


# -- deaths --------------------------------------------------------------------------------------


def test_the_death_of_a_holder_is_a_release(road: Road) -> None:
    if road.kind == "gateway":
        pytest.skip("holder processes are on the native wire; plain clients are below")
    name = road.name("x")
    with holder(road.front.socket, name) as first:
        token = first.held()
        with holder(road.front.socket, name, "wait") as second:
            assert second.line() == "waiting"
            waiters(ipcd_client.lock(name, **road.keywords))
            first.process.kill()
            assert second.held() > token


def test_the_death_of_one_that_waits(road: Road) -> None:
    """It takes nothing, and is in nobody's way."""
    name = road.name("x")
    lock = ipcd_client.lock(name, **road.keywords)
    with lock.shared(), holder(road.front.socket, name, "wait") as second:
        waiters(lock)
        new = ipcd_client.lock(name, party="new", **road.keywords).shared()
        with pytest.raises(TimedOut):
            new.acquire(0)
        second.process.kill()
        waiters(lock, 0)
        new.acquire(0).release()
    lock.acquire(LONG).release()


def test_the_death_of_its_home(road: Road, nodes: Daemons) -> None:
    """Whoever holds it hears of that, and whoever waits too; handles go on once the daemon is there again."""
    a = nodes.run("a", "--grpc-listen", "127.0.0.1:0")
    own = Road("gateway" if road.kind == "gateway" else "here", _cluster(a), "own")
    try:
        lock = ipcd_client.lock("x@a", **own.keywords)
        with holder(a.socket, "x@a") as first:
            token = first.held()
            with in_thread(lock.acquire) as results:
                waiters(lock)
                a.kill()
            assert isinstance(results[0], CallFailed)
            assert results[0].code is grpc.StatusCode.UNAVAILABLE
            assert first.line().startswith("lost")
        if own.kind == "gateway":
            return
        nodes.run("a")
        with lock as held:
            assert held.token > token
    finally:
        own.close()


def _cluster(daemon: Daemon) -> Any:
    from primitives.roads import Cluster

    return Cluster(daemon, daemon)


def test_tokens_grow_over_a_restart_with_the_clock_set_back(nodes: Daemons, tmp_path: Path) -> None:
    arguments = ("--state-dir", str(tmp_path))
    a = nodes.run("a", *arguments)
    lock = ipcd_client.lock("x", node=a.socket)
    with lock as held:
        token = held.token
    a.stop()
    # As if the clock had been ahead.
    file = tmp_path / "lock.token"
    assert int(file.read_text()) > token
    file.write_text(str(token + 10**15))
    nodes.run("a", *arguments)
    with lock as held:
        assert held.token > token + 10**15


def test_made_on_both_sides_of_a_cut(nodes: Daemons) -> None:
    """Two locks: shown, and not merged."""
    b = nodes.run("b")
    a = nodes.run("a")
    with ipcd_client.lock("x", node=a.socket) as here, ipcd_client.lock("x", node=b.socket) as there:
        assert here.token
        assert there.token
        again = nodes.run("c", "--peer", a.listen, "--peer", b.listen)
        again.logged("node linked", "a")
        again.logged("node linked", "b")
        eventually(lambda: _ambiguous(again), "both are known")
        for home in "ab":
            assert ipcd_client.lock(f"x@{home}", node=again.socket).look().node == home
            with pytest.raises(TimedOut):
                ipcd_client.lock(f"x@{home}", node=again.socket).acquire(0)
        here.check()
        there.check()


def _ambiguous(daemon: Daemon) -> bool:
    try:
        ipcd_client.lock("x", node=daemon.socket).look()
    except Ambiguous as error:
        assert "locks x@a and x@b" in str(error)
        return True
    except IpcdError:
        pass
    return False


def test_a_daemon_that_does_not_answer(nodes: Daemons) -> None:
    a = nodes.run("a")
    with ipcd_client.lock("x", node=a.socket) as held:
        a.process.send_signal(signal.SIGSTOP)
        a.process.kill()
        assert held.lost.wait(LONG)
        with pytest.raises(Lost):
            held.check()
        held.__exit__(ValueError, ValueError(), None)


def test_a_child_does_not_hold_what_its_parent_holds(nodes: Daemons) -> None:
    """Run in a process of its own, as this one has threads."""
    a = nodes.run("a")
    program = """
import os, sys, ipcd_client
from ipcd_client.primitives.errors import Lost, TimedOut
lock = ipcd_client.lock("x", node=sys.argv[1])
with lock as held:
    child = os.fork()
    if not child:
        try:
            held.token
        except Lost as error:
            print(error, flush=True)
        try:
            lock.acquire(0)
        except TimedOut as error:
            print("not free", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(held.token > 0, lock.look().holder_count)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, a.socket],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "the lock 'x' is held by the process from which this one was forked, not by this one",
        "not free",
        "True 1",
    ]


def test_a_handle_that_is_dropped_gives_it_back(road: Road) -> None:
    lock = ipcd_client.lock(road.name("x"), **road.keywords)
    held = lock.acquire()
    assert held.token
    del held
    lock.acquire(LONG).release()


# -- plain gRPC ----------------------------------------------------------------------------------


def test_plain_grpc(road: Road) -> None:
    """What a program in any language does: no handle of the SDK."""
    if road.kind != "gateway":
        pytest.skip("through the gateway")
    stub = lock_pb2_grpc.LockStub(road.keywords["channel"])
    name = road.name("x")
    ends: list[Any] = []

    def hold(request: lock_pb2.LockHoldRequest) -> Any:
        import queue

        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        requests.put(request)
        ends.append(requests)
        return stub.Hold(iter(requests.get, None), timeout=LONG), requests

    acquire = lock_pb2.LockAcquire(range=lock_pb2.LockRange())
    call, requests = hold(lock_pb2.LockHoldRequest(name=name, id=7, acquire=acquire))
    reply = next(call)
    assert reply.id == 7
    assert reply.granted.token
    (info,) = stub.Look(lock_pb2.LockLookRequest(name=name), timeout=LONG).locks
    assert [(party.node, party.pid) for party in info.holders] == [(road.front.node, 0)]
    # A session waits, is told by its id that it waits no longer, and goes on.
    other, more = hold(lock_pb2.LockHoldRequest(name=name, id=1, acquire=acquire))
    eventually(lambda: stub.Look(lock_pb2.LockLookRequest(name=name)).locks[0].waiter_count, "it waits")
    more.put(lock_pb2.LockHoldRequest(id=1, acquire=acquire))
    failed = next(other)
    assert (failed.id, failed.failed.code) == (1, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    more.put(lock_pb2.LockHoldRequest(id=2, cancel=1))
    failed = next(other)
    assert (failed.id, failed.failed.code) == (1, grpc.StatusCode.CANCELLED.value[0])
    more.put(lock_pb2.LockHoldRequest(id=3))
    assert next(other).HasField("done")
    # The end of the requests gives back; so does a cancelled call.
    more.put(None)
    assert list(other) == []
    call.cancel()
    last, requests_of_last = hold(lock_pb2.LockHoldRequest(name=name, id=1, acquire=acquire))
    assert next(last).granted.token == reply.granted.token + 1
    requests_of_last.put(None)
    assert list(last) == []
    assert last.code() is grpc.StatusCode.OK
    requests.put(None)


# -- who may -------------------------------------------------------------------------------------


def test_who_may(nodes: Daemons) -> None:
    ruled = Ruled(nodes, "a", rule("deny", f"node/*/uid/{US}", "register", "lock:no.*"))
    path = ruled.daemon.socket
    with pytest.raises(NotAllowed, match=r"may not register lock:no\.x"):
        ipcd_client.lock("no.x", node=path).acquire()
    lock = ipcd_client.lock("yes", node=path)
    with lock:
        ruled.change(rule("deny", f"node/*/uid/{US}", "read", "lock:yes"))
        for call in (lock.acquire, lock.look):
            with pytest.raises(NotAllowed, match="may not read lock:yes"):
                call()
    ruled.change(rule("deny", f"node/*/uid/{US}", "register", "lock:yes"))
    with pytest.raises(NotAllowed, match="may not register lock:yes"):
        lock.remove(force=True)
    lock.acquire().release()


# -- bounds --------------------------------------------------------------------------------------


def test_idle_locks_make_room(nodes: Daemons) -> None:
    """A program that uses more names than it may have at a time goes on."""
    a = nodes.run("a")

    async def main() -> None:
        held = await ipcd_client.aio.lock("kept", node=a.socket).acquire()
        keeper = ipcd_client.aio.lock("kept", node=a.socket)
        before = time.monotonic()
        count = 0
        while count < 1100 and time.monotonic() - before < LONG:
            async with asyncio.TaskGroup() as group:
                for _ in range(50):
                    count += 1
                    group.create_task(_once(a, f"name-{count}"))
        assert count >= 1100
        held.check()
        assert (await keeper.look()).holder_count == 1
        await held.release()
        await keeper.close()

    async def _once(daemon: Daemon, name: str) -> None:
        async with ipcd_client.aio.lock(name, node=daemon.socket):
            pass

    asyncio.run(main())


def test_a_session_holds_so_many_ranges(road: Road) -> None:
    lock = ipcd_client.lock(road.name("x"), **road.keywords)
    with lock.session() as session:
        for number in range(1024):
            session.acquire(2 * number, 1)
        with pytest.raises(CallFailed, match="limit of 1024 ranges of one session with a lock"):
            session.acquire(5000, 1)
        session.acquire(0, 2048)
        assert lock.look().holder_count == 1
