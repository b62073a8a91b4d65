"""A rolling restart of a cluster under load: every node and every server, one after the other.

`pytest -s tests/sdk/test_rolling.py` prints the figures.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import ipcd_client
import pytest
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc
from sdk.processes import LONG, Processes, eventually
from sdk.spread_server import SERVICE
from sdk.test_spread import start

NODES = ("a", "b", "c")
RATE = 500  # calls a second, of all callers together


@dataclass
class Load:
    """Calls from one node, one after the other, `rate` a second."""

    path: str
    rate: float
    answered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds of one call
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with ipcd_client.channel(node=self.path) as channel:
            who = channel.unary_unary(f"/{SERVICE}/Who")
            due = time.monotonic()
            while not self.over.is_set():
                begin = time.monotonic()
                try:
                    self.answered[who(b"", timeout=LONG).decode()] += 1
                except grpc.RpcError as error:
                    self.lost.append(f"{error.code()}: {error.details()}")
                self.longest = max(self.longest, time.monotonic() - begin)
                due = max(due + 1 / self.rate, time.monotonic() - 0.1)
                self.over.wait(max(0.0, due - time.monotonic()))


class Cluster:
    """Three nodes with a server each, which know each other by address."""

    def __init__(self, world: Processes) -> None:
        self.world = world
        self.addresses = dict(zip(NODES, free_addresses(len(NODES)), strict=True))
        self.daemons = {node: self._daemon(node) for node in NODES}
        self.servers = {node: start(world, node, node) for node in NODES}
        for node in NODES:
            self.whole(node)

    def _daemon(self, node: str) -> subprocess.Popen[str]:
        peers = [part for other in NODES if other != node for part in ("--peer", self.addresses[other])]
        return self.world.daemon(node, "--listen", self.addresses[node], *peers)

    def whole(self, node: str) -> None:
        """Waits until the node knows all three servers."""
        with ipcd_client.channel("ipcd-node:", node=self.world.socket(node)) as channel:
            stub = node_pb2_grpc.NodeStub(channel)

            def known() -> bool:
                request = node_pb2.ListCatalogRequest(service=SERVICE)
                return len(stub.ListCatalog(request, timeout=LONG).servers) == len(NODES)

            eventually(known, f"node {node} knows all servers")

    def restart_daemon(self, node: str) -> None:
        end(self.daemons[node], signal.SIGTERM)
        self.daemons[node] = self._daemon(node)
        for each in NODES:
            self.whole(each)

    def restart_server(self, node: str, number: int) -> None:
        end(self.servers[node], number)
        self.servers[node] = start(self.world, node, node)
        for each in NODES:
            self.whole(each)


def free_addresses(count: int) -> list[str]:
    """Of ports that nobody listens on, and that nobody has when a daemon comes back: the kernel gives them to none who
    asks for any, as other runs of tests do all the time."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    every = range(2_000, 1 << 16)
    ports = [port for port in every if not first <= port <= last] or every
    addresses: list[str] = []
    with contextlib.ExitStack() as taken:
        while len(addresses) < count:
            port = secrets.choice(ports)
            with contextlib.suppress(OSError):  # somebody has it
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
                addresses.append(f"127.0.0.1:{port}")
    return addresses


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait(LONG)


@pytest.fixture
def cluster(world: Processes) -> Cluster:
    return Cluster(world)


@pytest.fixture
def loads(cluster: Cluster) -> Iterator[list[Load]]:
    """Under way on every node."""
    loads = [Load(cluster.world.socket(node), RATE / len(NODES)) for node in NODES]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    eventually(lambda: all(load.answered or load.lost for load in loads), "calls are made")
    yield loads
    for load in loads:
        load.over.set()
    for thread in threads:
        thread.join(2 * LONG)


def tell(what: str, loads: list[Load], since: float) -> None:
    calls = sum(load.answered.total() + len(load.lost) for load in loads)
    lost = sum(len(load.lost) for load in loads)
    longest = max(load.longest for load in loads)
    seconds = time.monotonic() - since
    print(f"\n{what}: {calls} calls in {seconds:.1f} s, {lost} lost, the longest took {longest * 1e3:.0f} ms")


def test_nothing_is_lost_in_a_rolling_restart(cluster: Cluster, loads: list[Load]) -> None:
    since = time.monotonic()
    for node in NODES:
        cluster.restart_daemon(node)
        cluster.restart_server(node, signal.SIGTERM)
    goals = [load.answered.total() + 10 for load in loads]
    eventually(
        lambda: all(load.answered.total() > goal for load, goal in zip(loads, goals, strict=True)), "calls go on"
    )
    tell("rolling restart", loads, since)
    assert [load.lost for load in loads] == [[], [], []]


def test_only_what_a_killed_server_had_is_lost(cluster: Cluster, loads: list[Load]) -> None:
    """Each caller has one call at a time: at most that one, and the error names who was killed."""
    since = time.monotonic()
    for node in NODES:
        pid = cluster.servers[node].pid
        before = [len(load.lost) for load in loads]
        cluster.restart_server(node, signal.SIGKILL)
        lost = [load.lost[count:] for load, count in zip(loads, before, strict=True)]
        assert all(len(each) <= 1 for each in lost), lost
        assert all(f"pid {pid} on node {node}" in error for each in lost for error in each), lost
    tell("servers killed one by one", loads, since)
