"""Circles of waits over locks that several nodes keep."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc
from ipcd_client.primitives.errors import Deadlock, TimedOut
from primitives.lock_faces import Face, in_thread, waiters
from primitives.roads import Cluster, Road

pytestmark = pytest.mark.usefixtures("grpc_aio")


class Ring:
    """Parties that hold a lock each, to wait for that of the next. `made`: a handle of the lock with that number, for a
    party with that."""

    def __init__(self, size: int, made: Callable[[int, int], Any]) -> None:
        self._made = made
        self._size = size
        self.held = [made(number, number).acquire() for number in range(size)]

    def wait(self, number: int, wait: float | None = None) -> Any:
        """The party of that number waits for the lock of the next one."""
        return self._made((number + 1) % self._size, number).acquire(wait)

    def waited_for(self, number: int) -> None:
        """Until somebody waits for that lock."""
        waiters(self._made(number, number))


def ring_of(*nodes: Daemon) -> Ring:
    """Each node keeps a lock, and each party is at the node of its own."""
    return Ring(
        len(nodes),
        lambda number, party: ipcd_client.lock(
            f"x{number}@{nodes[number].node}", node=nodes[party].socket, party=f"party {party}"
        ),
    )


def test_a_circle_over_two_homes(road: Road, cluster: Cluster, lock_face: Face) -> None:
    """Who closes it fails, and keeps what it has; the other goes on waiting, and gets what it waits for."""
    homes = [node.node for node in cluster]
    name = road.name("x").partition("@")[0]
    ring = Ring(
        2, lambda number, party: lock_face.lock(f"{name}{number}@{homes[number]}", road, party=f"party {party}")
    )
    with in_thread(lambda: ring.wait(0)) as results:
        ring.waited_for(1)
        with pytest.raises(Deadlock, match="over locks of other nodes"):
            ring.wait(1)
        assert not results
        ring.held[1].release()
    results[0].release()
    ring.held[0].release()


def test_a_thread_with_locks_of_two_homes_is_one_party(cluster: Cluster, road: Road) -> None:
    """Nothing has to be said for that."""
    name = road.name("x").partition("@")[0]
    here, there = (ipcd_client.lock(f"{name}@{node.node}", node=cluster.front.socket) for node in cluster)

    def other() -> None:
        with there, here:
            pass

    with ExitStack() as stack:
        first = stack.enter_context(here)
        with in_thread(other) as results:
            waiters(here)
            with pytest.raises(Deadlock):
                there.acquire()
            assert not results
            first.release()
        assert results == [None]


def test_a_circle_over_three_homes(nodes: Daemons) -> None:
    """Of processes of three nodes."""
    a = nodes.run("a")
    b = nodes.run("b", "--peer", a.listen)
    c = nodes.run("c", "--peer", a.listen, "--peer", b.listen)
    for daemon, others in ((a, "bc"), (b, "ac"), (c, "ab")):
        for other in others:
            daemon.logged("node linked", other)
    ring = ring_of(a, b, c)
    with in_thread(lambda: ring.wait(0)) as first, in_thread(lambda: ring.wait(1)) as second:
        ring.waited_for(1)
        ring.waited_for(2)
        with pytest.raises(Deadlock, match="over locks of other nodes"):
            ring.wait(2)
        assert not first
        assert not second
        ring.held[2].release()
        second_held = eventually(lambda: second, "it has come")[0]
        ring.held[1].release()
    second_held.release()
    first[0].release()
    ring.held[0].release()


def test_who_waits_in_no_circle_waits_for_its_time(road: Road, cluster: Cluster) -> None:
    """Also behind one that waits at another home itself."""
    homes = [node.node for node in cluster]
    name = road.name("x").partition("@")[0]

    def made(number: int, party: int) -> Any:
        return ipcd_client.lock(f"{name}{number}@{homes[number % 2]}", party=f"party {party}", **road.keywords)

    held = [made(number, number).acquire() for number in range(3)]
    with in_thread(lambda: made(2, 1).acquire()) as results:
        waiters(made(2, 2))
        # Its home has asked by then, more than once.
        with pytest.raises(TimedOut):
            made(1, 0).acquire(1.0)
        assert not results
        held[2].release()
    results[0].release()
    for each in held[:2]:
        each.release()


def test_homes_that_do_not_see_each_other(nodes: Daemons) -> None:
    """There the wait goes on, to its time; and once they see each other, its end is the other one."""
    a, b = nodes.run("a"), nodes.run("b")
    ring = Ring(
        2,
        lambda number, party: ipcd_client.lock(f"x@{'ab'[number]}", node=(a, b)[number].socket, party=f"party {party}"),
    )
    with in_thread(lambda: ring.wait(0)) as results:
        ring.waited_for(1)
        with pytest.raises(TimedOut):
            ring.wait(1, 1.0)
        with in_thread(lambda: ring.wait(1)) as closing:
            ring.waited_for(0)
            nodes.run("c", "--peer", a.listen, "--peer", b.listen)
            a.logged("node linked", "b")
        assert isinstance(closing[0], Deadlock)
        assert not results
        ring.held[1].release()
    results[0].release()
    ring.held[0].release()


def test_names_that_are_none(road: Road) -> None:
    """The acquisition is refused, and the session goes on."""
    if road.kind != "gateway":
        pytest.skip("through the gateway")
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    call = lock_pb2_grpc.LockStub(road.keywords["channel"]).Hold(iter(requests.get, None), timeout=LONG)
    requests.put(lock_pb2.LockHoldRequest(name=road.name("x"), id=1))
    session = next(call).session
    assert session.node == road.home.node
    for elsewhere, code in (
        ([lock_pb2.LockSession(node="a", secret=b"short")], grpc.StatusCode.INVALID_ARGUMENT),
        ([lock_pb2.LockSession(node="a" * 256, secret=session.secret)], grpc.StatusCode.INVALID_ARGUMENT),
        ([session] * 65, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        acquire = lock_pb2.LockAcquire(range=lock_pb2.LockRange(), elsewhere=elsewhere)
        requests.put(lock_pb2.LockHoldRequest(id=2, acquire=acquire))
        reply = next(call)
        assert reply.failed.code == code.value[0]
        assert not reply.HasField("session")
    # Names that stand for nobody are as good as none.
    guessed = [lock_pb2.LockSession(node=node, secret=bytes(16)) for node in ("a", "b", "nowhere")]
    acquire = lock_pb2.LockAcquire(range=lock_pb2.LockRange(), elsewhere=guessed)
    requests.put(lock_pb2.LockHoldRequest(id=3, acquire=acquire))
    assert next(call).granted.token
    requests.put(None)
    assert list(call) == []
