"""Five nodes, and what there is between them: cuts of all kinds, delay, loss, reordering. Each test heals what it
broke, and the next begins when all are linked again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from typing import Final

import pytest
from cluster import parts
from cluster.conftest import Five
from cluster.eventually import LONG, eventually
from cluster.hosts import CLEAR, Cluster, Host, Weather
from ipcd_client.pb.ipcd.v1 import node_pb2

# Seconds in which a node that is cut off is gone from every catalog, and in which it is back when the cut has healed.
# As much again is for a machine that does something else as well.
GONE: Final = 3.0
BACK: Final = 3.0
SLACK: Final = 4.0
CUT: Final = Weather(cut=True)
BAD: Final = Weather(delay=0.2, loss=0.1)
NAMES: Final = "abcde"
LINKED: Final = node_pb2.NodeInfo.STATE_LINKED


@pytest.fixture
def cluster(five: Five) -> Iterator[Cluster]:
    """All linked, each with the servers of all."""
    all_see(five.cluster, NAMES, LONG)
    yield five.cluster
    for host in five.cluster:
        host.weather()
    five.cluster.join()


def serves(host: Host) -> set[str]:
    """The nodes whose servers are in the host's catalog."""
    return {node for node, _ in host.node.serving()}


def sees(host: Host, names: Iterable[str]) -> bool:
    """It is linked with these and no others, and has their servers and no others."""
    return set(host.node.linked()) == set(names) - {host.name} and serves(host) == set(names) | {host.name}


def all_see(hosts: Iterable[Host], names: str, timeout: float) -> None:
    """In due time."""
    begin = time.monotonic()
    for host in hosts:
        eventually(
            lambda host=host: sees(host, names),  # type: ignore[misc]
            max(0.1, begin + timeout + SLACK - time.monotonic()),
            what=lambda host=host: (host.name, host.node.nodes(), serves(host)),
        )
    print(f"{names}: {time.monotonic() - begin:.1f} s")


def without(cluster: Cluster, name: str) -> list[Host]:
    return [host for host in cluster if host.name != name]


@pytest.mark.parametrize(
    ("out", "into"), [(CUT, CUT), (CUT, CLEAR), (CLEAR, CUT)], ids=["both ways", "cannot be heard", "hears nothing"]
)
def test_a_host_is_cut_off(cluster: Cluster, out: Weather, into: Weather) -> None:
    e = cluster["e"]
    incarnation = e.node.status().incarnation
    e.weather(out, into)
    all_see(without(cluster, "e"), "abcd", GONE)
    all_see([e], "e", GONE)
    e.weather()
    all_see(cluster, NAMES, BACK)
    assert cluster["a"].node.linked()["e"].incarnation == incarnation


def test_the_network_falls_in_two(cluster: Cluster, five: Five) -> None:
    cluster.split("d", "e")
    all_see([cluster[name] for name in "abc"], "abc", GONE)
    all_see([cluster[name] for name in "de"], "de", GONE)
    # What changes meanwhile is known to all afterwards.
    five.servers["d"].do(parts.stop)
    eventually(lambda: serves(cluster["e"]) == {"e"})
    cluster.join()
    eventually(lambda: all(serves(host) == set("abce") for host in cluster), BACK + SLACK)
    five.servers["d"].do(parts.serve, "d")
    all_see(cluster, NAMES, BACK)


def test_two_nodes_alone_lose_each_other_one_way(cluster: Cluster) -> None:
    """All others reach both."""
    a, b = cluster["a"], cluster["b"]
    a.lose(b)
    all_see([a], "acde", GONE)
    all_see([b], "bcde", GONE)
    all_see([cluster[name] for name in "cde"], NAMES, GONE)
    a.find(b)
    all_see(cluster, NAMES, BACK)


def test_a_node_that_is_stopped_is_suspected_and_never_there_twice(cluster: Cluster) -> None:
    e, others = cluster["e"], without(cluster, "e")
    incarnation = e.node.status().incarnation

    def states(host: Host) -> list[int]:
        found = [info for info in host.node.nodes() if info.node == "e"]
        assert len(found) <= 1, found
        return [info.state for info in found]

    e.node.signal(signal.SIGSTOP)
    try:
        for host in others:
            eventually(lambda host=host: states(host) != [LINKED])  # type: ignore[misc]
        all_see(others, "abcd", GONE)
        for host in others:
            states(host)
    finally:
        e.node.signal(signal.SIGCONT)
    all_see(cluster, NAMES, BACK)
    for host in others:
        assert states(host) == [LINKED]
    assert e.node.status().incarnation == incarnation
    assert all("node suspected peer=e" in host.log() for host in others)


@pytest.mark.parametrize("weather", [BAD, Weather(delay=0.1, loss=0.02, reorder=0.25)], ids=["loss", "reorder"])
def test_bad_weather_takes_nobody_for_gone(cluster: Cluster, five: Five, weather: Weather) -> None:
    """A fifth of a second each way, and a tenth of what is sent lost."""
    e = cluster["e"]
    gone = {host.name: host.log().count("node gone") for host in cluster}
    e.weather(weather, weather)
    end = time.monotonic() + 8.0
    caller = five.caller
    caller.do(parts.pin, "ipcd://e")
    calls = 0
    while time.monotonic() < end:
        assert caller.do(parts.who)[0] == "e"
        calls += 1
    assert calls
    e.weather()
    assert gone == {host.name: host.log().count("node gone") for host in cluster}
    all_see(cluster, NAMES, BACK)
