"""How many locks, sessions and ranges there may be, and who makes room for whom."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemons, until
from integration.gateway import LISTEN, address_of
from ipcd_client.primitives.errors import NoSuchName
from ipcd_client.rpc.failure import CallFailed
from primitives.limited import limited
from primitives.roads import Road

# As a process of its own.
ONCE = """
import sys, ipcd_client
for name in sys.argv[2:]:
    ipcd_client.lock(name, node=sys.argv[1]).acquire().release()
"""


def once(node: str, *names: str) -> None:
    """Holds each of them for a moment."""
    for name in names:
        ipcd_client.lock(name, node=node).acquire().release()


def another_process(node: str, *names: str) -> None:
    """The same by another process."""
    subprocess.run([sys.executable, "-c", ONCE, node, *names], check=True, timeout=LONG)


def there(node: str, *names: str) -> list[str]:
    """Those of them that there are."""
    found = []
    for name in names:
        try:
            ipcd_client.lock(name, node=node).look()
        except NoSuchName:
            continue
        found.append(name)
    return found


async def _waiting(lock: Any, count: int) -> bool:
    return bool((await lock.look()).waiter_count == count)


def test_idle_locks_make_room(nodes: Daemons) -> None:
    """A program that uses more names than it may have at a time goes on: its own that are idle go, the oldest first."""
    node = nodes.run(launcher=limited(NAMES_EACH={"process": 4})).socket
    with ipcd_client.lock("held", node=node) as held:
        once(node, "one", "two", "three", "one", "four", "five")
        held.check()
        assert there(node, "one", "two", "three", "four", "five") == ["one", "four", "five"]


def test_none_goes_where_that_makes_no_room(nodes: Daemons) -> None:
    """A process that has all that it may have is refused; what other processes of its user have left stays, until it is
    the user who has all that there may be."""
    node = nodes.run(launcher=limited(NAMES_EACH={"process": 2, "uid": 4})).socket
    another_process(node, "theirs-1", "theirs-2")
    with ipcd_client.lock("one", node=node), ipcd_client.lock("two", node=node):
        with pytest.raises(CallFailed, match="limit of 2 named things of one process"):
            once(node, "three")
        assert there(node, "theirs-1", "theirs-2") == ["theirs-1", "theirs-2"]
        another_process(node, "more")
        assert there(node, "theirs-1", "theirs-2", "more") == ["theirs-2", "more"]


def test_nobody_makes_room_for_somebody_else(nodes: Daemons) -> None:
    """Of those of another node that one's own go, and of the users of this one theirs; whatever there is in all."""
    home = nodes.run("b", launcher=limited(NAMES=5, NAMES_EACH={"process": 8, "uid": 8, "node": 3}))
    other = nodes.run("a", "--peer", home.listen)
    other.logged("node linked", "b")
    once(home.socket, "here-1", "here-2")
    once(other.socket, *(f"there-{number}@b" for number in range(6)))
    assert there(home.socket, "here-1", "here-2", "there-1", "there-2") == ["here-1", "here-2"]
    assert there(home.socket, "there-3", "there-4", "there-5") == ["there-3", "there-4", "there-5"]
    once(home.socket, "here-3", "here-4")
    assert there(home.socket, "here-1", "here-2", "here-3", "here-4") == ["here-3", "here-4"]
    here = [ipcd_client.lock(name, node=home.socket).acquire() for name in ("here-3", "here-4")]
    with pytest.raises(CallFailed, match="limit of 5 named things is reached"):
        once(home.socket, "here-5")
    for held in here:
        held.release()
    assert there(home.socket, "there-3", "there-4", "there-5") == ["there-3", "there-4", "there-5"]


def test_a_gateways_clients_make_room_for_each_other_alone(nodes: Daemons) -> None:
    """Of them nobody knows of which user they are: what users of their node have made is not theirs."""
    home = nodes.run("b", launcher=limited(NAMES_EACH={"process": 8, "uid": 8, "node": 3}))
    other = nodes.run("a", *LISTEN, "--peer", home.listen)
    other.logged("node linked", "b")
    once(other.socket, "one@b", "two@b", "three@b")
    with grpc.insecure_channel(address_of(other)) as channel:
        first, second = (ipcd_client.lock(name, channel=channel) for name in ("first@b", "second@b"))
        with pytest.raises(CallFailed, match="limit of 3 named things of one node"), first:
            pass
        assert there(home.socket, "one", "two", "three") == ["one", "two", "three"]
        ipcd_client.lock("three", node=home.socket).remove()
        for made in (first, second):
            with made:
                pass
    assert there(home.socket, "one", "two", "first", "second") == ["one", "two", "second"]


def test_many_of_one_node_wait_for_one_lock(nodes: Daemons) -> None:
    """And keep nobody there from other locks: what one process of a node may have it leaves to the others of that."""
    home = nodes.run("b", launcher=limited(CALLS_EACH={"process": 8, "uid": 40, "node": 40, "host": 40}))
    other = nodes.run("a", "--peer", home.listen)
    other.logged("node linked", "b")
    held = ipcd_client.lock("x@b", node=home.socket).acquire()

    async def main() -> None:
        lock = ipcd_client.aio.lock("x@b", node=other.socket)
        # One call is left, with which to look.
        waits = [asyncio.create_task(lock.acquire()) for _ in range(7)]
        await until(lambda: _waiting(lock, 7), "all wait")
        async with await lock.session():
            with pytest.raises(
                CallFailed, match=r"limit of 8 calls at the daemon of one process is reached \(pid \d+ of"
            ):
                await lock.session()
        await asyncio.to_thread(another_process, other.socket, "y@b")
        held.release()
        for wait in asyncio.as_completed(waits):
            await (await wait).release()
        await lock.close()

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
