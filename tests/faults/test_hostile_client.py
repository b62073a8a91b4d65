"""One process that means ill beside one that does not: nothing of the good one's is lost or wrong, the daemon keeps
nothing, says to the other which limit it has reached, and does not fill its log. How much slower the good one's calls
are is printed, and measured by `python -m benchmarks.hostile`."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import ipcd_client
import pytest
from conformance.echo import SERVICE
from integration.daemons import LONG, Daemon, Daemons, daemons, eventually, until
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2
from sdk.processes import Processes, processes

from ipcd import limits
from ipcd.config import Config
from ipcd.node import Node

PROGRAM = str(Path(__file__).with_name("hostile_client.py"))
METHOD = f"/{SERVICE}/UnaryEcho"
# Of the good one, beside each act; each tenth on a new channel.
CALLS = 400
MEMORY = 96 << 20  # bytes by which the daemon may grow
# What the refusals of an act say, of which one at least has to be told. None: it is about what cannot be refused.
NAMES: dict[str, tuple[str, ...]] = {
    # Which of them first depends on how fast it is let in.
    "connections": ("attaches a second", "attached connections of one process"),
    "reconnects": ("attaches a second",),
    "half-open": ("connections without preamble of one host", "connections a second"),
    "slow-reader": (),
    "slow-writer": ("bytes that wait of one process",),
    "descriptors": ("descriptors that were not read of one process",),
    "streams": ("watches of one process", "watches of one connection"),
    "catalog": ("bytes of servers' descriptions of one process",),
    "huge": ("oversized-frame",),
    "garbage": ("attaches a second", "unknown-type"),
    "requests": (),
}


class Hostile:
    """The program, from its first deed to its last."""

    def __init__(self, act: str, daemon: str, listen: str, service: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, act, daemon, listen, *([service] if service else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said = ""
        assert self.is_told(("attacking\n",))

    def is_told(self, names: tuple[str, ...]) -> bool:
        """Waits until it is told one of these."""
        assert self._process.stdout is not None
        watch = select.poll()
        watch.register(self._process.stdout, select.POLLIN)
        until = time.monotonic() + LONG
        # Unbuffered reads, so that what poll says is all there is.
        while (left := until - time.monotonic()) > 0 and watch.poll(left * 1000):
            self._said += os.read(self._process.stdout.fileno(), 1 << 16).decode()
            if any(name in self._said for name in names):
                return True
        return False

    @property
    def said(self) -> str:
        """What was read of it, the last of it."""
        return self._said[-1000:]

    def end(self) -> dict[str, int]:
        """Ends it: what it was told, and how often."""
        out, _ = self._process.communicate(timeout=LONG)
        answer = json.loads((self._said + out).splitlines()[-1])
        assert answer["done"]
        told: dict[str, int] = answer["told"]
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Good:
    """Calls over a channel that lasts, and over new ones, and looks at each answer."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._number = 0
        self._kept = ipcd_client.channel(node=path)
        self._call(self._kept)

    def calls(self, count: int) -> list[float]:
        """How long each took, in microseconds."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            if self._number % 10:
                self._call(self._kept)
            else:
                transport = ("shm", "unix")[self._number // 10 % 2]
                with ipcd_client.channel(node=self._path, transport=transport) as channel:
                    self._call(channel)
            times.append((time.perf_counter() - start) * 1e6)
        return times

    def _call(self, channel: grpc.Channel) -> None:
        self._number += 1
        request = f"number {self._number}".encode()
        echo: Any = channel.unary_unary(METHOD)
        assert echo(request, timeout=LONG) == request

    def close(self) -> None:
        self._kept.close()


def told(words: str, times: list[float]) -> str:
    ordered = sorted(times)
    return f"{words}: p50 {ordered[len(ordered) // 2]:.0f} us, p99 {ordered[len(ordered) * 99 // 100]:.0f} us"


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    with daemons() as all_of_them:
        yield all_of_them.run("a", "--log-level", "info")


@pytest.fixture(scope="module")
def served(node: Daemon) -> Iterator[Processes]:
    """A server, and room for more."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, processes(Path(folder)) as world:
        (Path(folder) / "a.sock").symlink_to(node.socket)
        world.server("a", "echo")
        yield world
        (Path(folder) / "a.sock").unlink()


@pytest.fixture
def good(node: Daemon, served: Processes) -> Iterator[Good]:
    client = Good(node.socket)
    yield client
    client.close()


def resident(node: Daemon) -> int:
    """Bytes of its memory."""
    text = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) << 10


def standing(path: str) -> tuple[int, int]:
    """How many are attached, and registered."""
    connection = attach.connect(path)
    try:
        status, _ = attach.call(
            connection, "Status", node_pb2.StatusRequest(), node_pb2.StatusReply, time.monotonic() + LONG
        )
        return status.attached, status.servers
    finally:
        connection.close()


@pytest.mark.parametrize("act", NAMES)
@pytest.mark.timeout(180)
def test_beside_a_good_client(node: Daemon, good: Good, act: str) -> None:
    alone = good.calls(CALLS)
    before = node.descriptors(), standing(node.socket)
    memory, lines = resident(node), len(node.text().splitlines())
    words: dict[str, int] = {}
    with Hostile(act, node.socket, node.listen) as hostile:
        beside = good.calls(CALLS)
        # However quick the good one is: until the limit is reached.
        assert not NAMES[act] or hostile.is_told(NAMES[act]), f"it was not told of {NAMES[act]}: {hostile.said}"
        beside += good.calls(CALLS)
        grown = resident(node) - memory
        words = hostile.end()
    after = good.calls(CALLS)
    print(f"{act}: {told('alone', alone)}; {told('beside', beside)}; {told('after', after)}")
    print(f"{act}: daemon {grown >> 20} MiB more; told {words}")
    eventually(lambda: standing(node.socket) == before[1], "nobody else is attached or registered")
    eventually(lambda: node.descriptors() <= before[0], "its descriptors are closed")
    assert grown < MEMORY
    # Of each event about each peer so many, whatever is done.
    text = node.text().splitlines()[lines:]
    assert len(text) < 8 * limits.LINES[1], "\n".join(text[-50:])


def test_the_log_says_how_much_it_leaves_out(cluster: Daemons) -> None:
    node = cluster.run("a", "--log-level", "info")
    with Hostile("reconnects", node.socket, node.listen) as hostile:
        node.logged("attach refused", "attaches a second")
        time.sleep(0.2)
        hostile.end()
    node.stop()
    assert len(node.events("attach refused")) <= limits.LINES[1] + 3
    assert "more like this were left out" in node.logged("attach refused", "left out")["reason"]


def test_descriptors_run_short_for_whoever_has_most(cluster: Daemons) -> None:
    few = 50  # of which the hostile one gets hold before the first that it had are closed again
    node = cluster.start("a", "--log-level", "info", launcher=("prlimit", f"--nofile={few}:{few}"))
    node.up()
    with processes(cluster.folder) as world:
        (cluster.folder / "a.sock").symlink_to(node.socket)
        world.server("a", "echo")
        with Hostile("connections", node.socket, node.listen) as hostile:
            assert "descriptors" in node.logged("attach refused", "descriptors is reached")["reason"]
            # New ones, each attached anew.
            for _ in range(10):
                client = Good(node.socket)
                client.calls(5)
                client.close()
            words = hostile.end()
        (cluster.folder / "a.sock").unlink()
    assert any("descriptors is reached" in text for text in words)
    assert not node.events("cannot accept connections")


@pytest.fixture
def cluster() -> Iterator[Daemons]:
    with daemons() as all_of_them:
        yield all_of_them


@pytest.mark.parametrize("act", ["connections", "slow-reader", "slow-writer", "streams", "requests", "huge", "garbage"])
@pytest.mark.timeout(120)
def test_against_a_server(node: Daemon, good: Good, act: str) -> None:
    """The same with whoever was introduced to a server, which has bounds of its own."""
    alone = good.calls(CALLS)
    with Hostile(act, node.socket, node.listen, SERVICE) as hostile:
        # Behind ten busy threads each of its steps waits for the interpreter's lock: see docs/security.md.
        beside = good.calls(CALLS // 10 if act == "requests" else 2 * CALLS)
        words = hostile.end()
    print(f"{act} at a server: {told('alone', alone)}; {told('beside', beside)}; told {words}")
    good.calls(CALLS)


def test_nothing_is_left_of_any_act() -> None:
    """In this process, where the node's tasks and counts can be seen."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder:
            node = Node(Config(node="a", socket=f"{folder}/s", listen="127.0.0.1:0", discovery=False))
            await node.start()
            try:
                await asyncio.sleep(0)
                before = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
                for act in NAMES:
                    with await asyncio.to_thread(Hostile, act, node.config.socket, node.listen) as hostile:
                        await asyncio.sleep(0.3)
                        await asyncio.to_thread(hostile.end)

                async def gone() -> bool:
                    now = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
                    return now[0] <= before[0] and now[1] <= before[1]

                await until(gone, "its tasks and descriptors are gone")
                quotas = node.quotas
                held = [quotas.attached, quotas.half_open, quotas.calls, quotas.waiting, quotas.watches]
                held += [quotas.servers, quotas.catalog, quotas.queued, quotas.unread]
                assert [shares.used for shares in held] == [0] * len(held)
            finally:
                await node.stop()

    asyncio.run(main())
