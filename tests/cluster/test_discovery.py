"""Nodes of different hosts find each other, and each knows who serves what on the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster import parts
from cluster.eventually import eventually
from cluster.hosts import PORT

if TYPE_CHECKING:
    from cluster.conftest import MakeCluster


@pytest.mark.parametrize("listen", [None, "0.0.0.0", "[::]"])
def test_nodes_find_each_other_by_multicast(make_cluster: MakeCluster, listen: str | None) -> None:
    """On their addresses, all of IPv4, and all."""
    cluster = make_cluster("a", "b", "c")
    if listen == "[::]" and not cluster["a"].routed:
        pytest.skip("the kernel has no IPv6")
    for host in cluster:
        host.run_daemon(listen=listen and f"{listen}:{PORT}")
    cluster.all_linked()
    for host in cluster:
        for name, info in host.node.linked().items():
            assert info.address == f"{cluster[name].address}:{PORT}"
            # Nodes that have found each other tell the third, which may not have heard of both by itself yet.
            assert info.source in ({"zeroconf", "learned"} if info.dialed else {"inbound"})

    b, c = cluster["b"].program("server"), cluster["c"].program("server")
    b.do(parts.serve, "one")
    c.do(parts.serve, "two")
    for host in cluster:
        eventually(lambda host=host: host.node.serving() == {("b", "one"), ("c", "two")})  # type: ignore[misc]
    b.do(parts.stop)
    for host in cluster:
        eventually(lambda host=host: host.node.serving() == {("c", "two")})  # type: ignore[misc]


@pytest.mark.parametrize("listen", [f"[{{}}]:{PORT}", f"[::]:{PORT}"])
def test_nodes_find_each_other_over_ipv6(make_cluster: MakeCluster, listen: str) -> None:
    cluster = make_cluster("a", "b")
    if not cluster["a"].routed:
        pytest.skip("the kernel has no IPv6")
    for host in cluster:
        host.run_daemon(listen=listen.format(host.routed))
        host.network.ip(f"address del {host.address}/24 dev eth0")
    cluster.all_linked()
    assert cluster["a"].node.linked()["b"].address == f"[{cluster['b'].routed}]:{PORT}"
    cluster["b"].program("server").do(parts.serve, "six")
    caller = cluster["a"].program("caller")
    assert caller.do(parts.who)[0] == "six"
    assert caller.do(parts.way).transport == "tcp"


def test_another_cluster_is_left_alone(make_cluster: MakeCluster) -> None:
    cluster = make_cluster("a", "b", "c")
    a, b, c = cluster
    a.run_daemon("--cluster", "blue")
    b.run_daemon("--cluster", "green")
    c.run_daemon("--cluster", "blue")
    # As b was there before c, it would have been found by now, too.
    eventually(lambda: set(a.node.linked()) == {"c"})
    eventually(lambda: set(c.node.linked()) == {"a"})
    assert not b.node.linked()


def test_seeds_tell_their_nodes_of_each_other(make_cluster: MakeCluster) -> None:
    cluster = make_cluster("a", "b", "c")
    a, b, c = cluster
    # The others are there before their seed is.
    for host in (a, c):
        host.run_daemon("--no-discovery", peers=(b,))
    b.run_daemon("--no-discovery")
    cluster.all_linked()
    assert b.node.status().discovery == []
    for host in (a, c):
        assert host.node.status().discovery == ["peers"]
        assert host.node.linked()["b"].source == "peer"
    c.program("server").do(parts.serve, "far")
    caller = a.program("caller")
    assert caller.do(parts.who)[0] == "far"
    # Who was told of does not need who told.
    b.kill_all()
    eventually(lambda: set(a.node.linked()) == {"c"})
    assert caller.do(parts.who)[0] == "far"
    assert a.program("late caller").do(parts.who)[0] == "far"


def test_without_discovery_and_peers_a_node_is_alone(make_cluster: MakeCluster) -> None:
    cluster = make_cluster("a", "b", "c")
    a, b, c = cluster
    a.run_daemon()
    b.run_daemon("--no-discovery")
    c.run_daemon()
    eventually(lambda: set(a.node.linked()) == {"c"})
    assert not b.node.linked()


@pytest.mark.parametrize(("listen", "network"), [("0.0.0.0", "10.78.0.{}/24"), ("[::]", "fd78::{}/64")])
def test_interfaces_come_and_go(make_cluster: MakeCluster, listen: str, network: str) -> None:
    cluster = make_cluster("a", "b", "c")
    a, b, c = cluster
    if listen == "[::]" and not a.routed:
        pytest.skip("the kernel has no IPv6")
    a.run_daemon(listen=f"{listen}:{PORT}")
    b.run_daemon(listen=f"{listen}:{PORT}")
    # This one is to be found on an interface only that it does not have yet.
    c.run_daemon("--interface", "eth1", listen=f"{listen}:{PORT}")
    eventually(lambda: set(a.node.linked()) == {"b"})
    eventually(lambda: set(b.node.linked()) == {"a"})
    assert not c.node.linked()
    # A second network, to which the three are joined while their daemons run.
    for number, host in enumerate(cluster, start=1):
        host.add_interface("eth1", network.format(number))
    cluster.all_linked()
    # The first goes. What was linked over it finds together again over the second.
    for host in cluster:
        host.network.ip("link del eth0")
    for host in cluster:
        eventually(lambda host=host: not [one for one in host.connections() if "77" in one[0].rpartition(":")[0]])  # type: ignore[misc]
    cluster.all_linked()
