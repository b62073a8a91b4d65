"""Semaphores when processes, daemons and links end, and when a caller may not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.gateway import address_of
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc
from ipcd_client.primitives import semaphore_terms as terms
from ipcd_client.primitives.errors import Ambiguous, Lost, TimedOut
from ipcd_client.primitives.semaphore import Semaphore
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Road

USER = str(Path(__file__).with_name("semaphore_user.py"))


@contextlib.contextmanager
def using(road: Road, name: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does that."""
    where = address_of(road.front) if road.kind == "gateway" else road.front.socket
    command = [sys.executable, USER, where, road.name(name), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def shown(handle: Semaphore) -> Any:
    """How its home shows it."""
    from ipcd_client.pb.ipcd.v1 import semaphore_pb2, semaphore_pb2_grpc
    from ipcd_client.primitives.place import Place

    place = Place("semaphore", handle.text, handle._place.path)
    request = semaphore_pb2.SemaphoreLookRequest(name=handle.text)
    try:
        reply = place.run(semaphore_pb2_grpc.SemaphoreStub, lambda stub: stub.Look(request, timeout=LONG))
        return reply.semaphores[0]
    finally:
        place.close()


@pytest.fixture
def handle(road: Road) -> Iterator[Semaphore]:
    """Of the test itself, always from the front node."""
    with ipcd_client.semaphore(road.name("s"), 1, node=road.front.socket) as made:
        made.make()
        yield made


def test_a_holder_is_killed(road: Road, handle: Semaphore) -> None:
    with using(road, "s", "hold") as process:
        assert says(process) == "held"
        with pytest.raises(TimedOut):
            handle.acquire(wait=0.05)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimedOut):
            handle.acquire(wait=0.05)
        process.kill()
        assert handle.acquire(wait=LONG)
    handle.release()


def test_a_waiter_is_killed(road: Road, handle: Semaphore) -> None:
    with handle.hold() as hold, using(road, "s", "wait") as process:
        assert says(process) == "waits"
        eventually(lambda: shown(handle).waiting == 1, "it waits")
        process.kill()
        eventually(lambda: shown(handle).waiting == 0, "it does not wait any more")
        hold.release()
        assert handle.get_value() == 1


def test_without_undo_it_stays_taken(road: Road, handle: Semaphore) -> None:
    with using(road, "s", "take") as process:
        assert says(process) == "held"
        process.kill()
        process.wait()
    assert handle.get_value() == 0
    assert shown(handle).held == 0
    with ipcd_client.semaphore(handle.text, undo=False, node=road.front.socket) as other:
        other.release()
    assert handle.acquire(wait=0)


def test_a_fork_holds_nothing(road: Road, handle: Semaphore) -> None:
    if road.kind == "gateway":
        pytest.skip("grpcio's channels do not live through a fork")
    with using(road, "s", "fork") as process:
        assert says(process) == "held"
        lines = [says(process) for _ in range(5)]
        assert f"the process {process.pid} holds it" in lines[0]
        assert "this handle has taken 0" in lines[1]
        assert lines[2:] == ["child: has 0", "parent: 0 held", "parent: 1"]


def pair(nodes: Daemons) -> tuple[Daemon, Daemon]:
    b = nodes.run("b")
    a = nodes.run("a", "--peer", b.listen, "--grpc-listen", "127.0.0.1:0")
    a.logged("node linked", "b")
    b.logged("node linked", "a")
    return a, b


def test_its_home_is_started_anew(nodes: Daemons) -> None:
    """What was held is lost, whoever waited is told, and handles go on with what is made anew."""
    home = nodes.run("a", "--grpc-listen", "127.0.0.1:0")
    port = address_of(home)
    with ipcd_client.semaphore("s", 1, node=home.socket) as s, grpc.insecure_channel(port) as channel:
        hold = s.hold()
        with ipcd_client.semaphore("g", 1, channel=channel) as over_gateway:
            far = over_gateway.hold()
            home.kill()
            eventually(lambda: hold.lost and far.lost, "both holds are lost")
            for each in (hold, far):
                with pytest.raises(Lost):
                    each.release()
            with pytest.raises((CallFailed, grpc.RpcError)):
                s.get_value()
        Path(home.socket).unlink(missing_ok=True)
        again = nodes.run("a")
        token = eventually(lambda: acquired(s), "the handle works again")
        assert token > hold.token
        assert s.get_value() == 0
        s.release()

        async def aio() -> None:
            async with ipcd_client.aio.semaphore("s", node=again.socket) as loops:
                held = await loops.hold()
                waiter = asyncio.create_task(loops.acquire())
                await asyncio.to_thread(eventually, lambda: shown(s).waiting == 1, "it waits")
                await asyncio.to_thread(again.kill)
                with pytest.raises(CallFailed):
                    await waiter
                lost = asyncio.Event()
                held.on_lost(lost.set)
                async with asyncio.timeout(LONG):
                    await lost.wait()
                assert held.lost
                with pytest.raises(Lost):
                    await held.release()

        asyncio.run(aio())
    Path(home.socket).unlink(missing_ok=True)


def acquired(handle: Semaphore) -> int | None:
    try:
        return handle.acquire(wait=0)
    except CallFailed:
        return None


def test_a_node_that_only_introduced_them_may_go(nodes: Daemons) -> None:
    """They are connected directly: not so those who came by its gateway."""
    a, b = pair(nodes)
    with (
        ipcd_client.semaphore("s@b", 2, node=a.socket) as s,
        grpc.insecure_channel(address_of(a)) as channel,
        ipcd_client.semaphore("s@b", 2, channel=channel) as by_gateway,
        ipcd_client.semaphore("s@b", node=b.socket) as there,
    ):
        hold = s.hold()
        far = by_gateway.hold()
        a.kill()
        eventually(lambda: there.get_value() == 1, "what the gateway's client held is given back")
        eventually(lambda: far.lost, "it knows")
        assert not hold.lost
        hold.release()
        assert there.get_value() == 2
    Path(a.socket).unlink(missing_ok=True)


def test_both_sides_of_a_partition(nodes: Daemons) -> None:
    """Each has one of the name. They are shown, and are two."""
    a, b = pair(nodes)
    with ipcd_client.semaphore("s", 1, node=b.socket) as theirs:
        theirs.acquire()
        b.process.send_signal(signal.SIGSTOP)
        eventually(lambda: not homes(a), "a does not see b any more")
        with ipcd_client.semaphore("s", 5, node=a.socket) as ours:
            ours.acquire(3)
            b.process.send_signal(signal.SIGCONT)
            eventually(lambda: homes(a) == homes(b) == ["a", "b"], "both know of both")
            # Each handle stays with its own.
            assert ours.get_value() == 2
            assert theirs.get_value() == 0
            with ipcd_client.semaphore("s", node=a.socket) as unclear, pytest.raises(Ambiguous, match=r"s@a and .*s@b"):
                unclear.get_value()
            with ipcd_client.semaphore("s@b", node=a.socket) as clear:
                assert clear.get_value() == 0
                clear.remove()
            eventually(lambda: homes(a) == ["a"], "one is left")


def listed(node: Daemon) -> list[names_pb2.Name]:
    with ipcd_client.channel("ipcd-node:", node=node.socket) as channel:
        request = names_pb2.ListNamesRequest(kind="semaphore")
        return list(names_pb2_grpc.NamesStub(channel).List(request, timeout=LONG).names)


def homes(node: Daemon) -> list[str]:
    return [name.node for name in listed(node)]


def test_tokens_grow_over_a_restart_with_the_clock_set_back(nodes: Daemons, tmp_path: Path) -> None:
    arguments = ("--state-dir", str(tmp_path))
    a = nodes.run("a", *arguments)
    with ipcd_client.semaphore("s", 1, node=a.socket) as s:
        token = s.acquire()
        a.stop()
        # As if the clock had been ahead.
        file = tmp_path / "semaphore.token"
        assert int(file.read_text()) > token
        file.write_text(str(token + 10**15))
        nodes.run("a", *arguments)
        assert eventually(lambda: acquired(s), "the handle works again") > token + 10**15


def test_who_may_what(nodes: Daemons) -> None:
    denied = [("make.*", "register"), ("put.*", "publish"), ("take.*", "read")]
    file = nodes.folder / "a.toml"
    file.write_text(
        "\n".join(
            f'[[rules]]\nname = "no {verb}"\neffect = "deny"\nwho = "node/a/uid/{os.getuid()}"\nmay = "{verb}"\n'
            f'what = "semaphore:{what}"\n'
            for what, verb in denied
        )
    )
    node = nodes.run("a", "--config", str(file))

    def handle(name: str, value: int | None = 1, *, undo: bool = True) -> Semaphore:
        return ipcd_client.semaphore(name, value, undo=undo, node=node.socket)

    for name in ("put.x", "take.x", "free"):
        with handle(name, undo=False) as plain, contextlib.suppress(NotAllowed):
            plain.make()
    with handle("make.x") as makes, pytest.raises(NotAllowed, match=r"may not register semaphore:make\.x"):
        makes.acquire()
    with handle("put.x", undo=False) as puts:
        puts.acquire()
        with pytest.raises(NotAllowed, match=r"may not publish semaphore:put\.x"):
            puts.release()
        with pytest.raises(NotAllowed, match=r"may not publish semaphore:put\.x"):
            puts.hold_all({puts: 1})
        puts.operate({puts: 0})
    with handle("free") as free:
        # What was taken is given back by whoever took it, of course.
        free.acquire()
        free.release()
    with handle("take.x", undo=False) as takes:
        for attempt in (takes.acquire, takes.hold, takes.get_value):
            with pytest.raises(NotAllowed, match=r"may not read semaphore:take\.x"):
                attempt()
        # Who may not have any makes none, and is not told how many there are of what it puts some in.
        assert [name.name for name in listed(node)] == ["free", "put.x"]
        assert takes._operate(terms.puts(1), 0.0).values == []
        assert takes._operate(terms.puts(1), 0.0).token
    with handle("free") as free, pytest.raises(NotAllowed, match=r"may not read semaphore:take\.x"):
        free.operate([("free", -1), ("take.x", -1)])
    with handle("free") as free:
        assert free.get_value() == 1
