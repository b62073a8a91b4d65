"""Locks when holders, waiters and daemons end, and are started again; from plain gRPC; and when a caller may not."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.test_rules import US, Ruled, rule
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives.errors import Ambiguous, Lost, TimedOut
from ipcd_client.rpc.failure import CallFailed
from primitives.lock_faces import holder, in_thread, waiters
from primitives.roads import Cluster, Road


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
    own = Road("gateway" if road.kind == "gateway" else "here", Cluster(a, a), "own")
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
        return "locks x@a and x@b" in str(error)
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
    # Another party, as this one would wait for itself for a moment.
    ipcd_client.lock(road.name("x"), party="other", **road.keywords).acquire(LONG).release()


# -- plain gRPC ----------------------------------------------------------------------------------


def test_plain_grpc(road: Road) -> None:
    """What a program in any language does: no handle of the SDK."""
    if road.kind != "gateway":
        pytest.skip("through the gateway")
    stub = lock_pb2_grpc.LockStub(road.keywords["channel"])
    name = road.name("x")
    ends: list[Any] = []

    def hold(request: lock_pb2.LockHoldRequest) -> Any:
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
