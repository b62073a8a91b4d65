"""Callers that cannot dial the server's node: the nodes make the connection for them, and pass it on."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from cluster import parts, ways_parts
from cluster.eventually import eventually
from cluster.hosts import PORT, Cluster, Host
from cluster.netns import Namespace
from cluster.program import CallError, Program

if TYPE_CHECKING:
    from cluster.conftest import MakeCluster


@dataclass
class Stage:
    """A server on b. Callers on a."""

    cluster: Cluster
    a: Host
    b: Host
    server: Program

    def refuse_calls_from(self, host: Host, other: Host) -> None:
        """From here on `other` opens no TCP connection with `host`: what asks for one is dropped, as firewalls do."""
        if shutil.which("nft") is None:
            pytest.skip("there is no `nft` (nftables) to drop packets with")
        try:
            host.network.run(
                "nft",
                "add table inet ways; add chain inet ways in { type filter hook input priority 0; }; "
                f"add rule inet ways in ip saddr {other.address} tcp flags & (syn | ack) == syn drop",
            )
        except OSError as error:
            pytest.skip(f"packets cannot be dropped: {error}")

    def take_calls(self, host: Host) -> None:
        """Again."""
        host.network.run("nft", "delete table inet ways")


def staged(cluster: Cluster, *arguments: str, server_arguments: tuple[str, ...] = ()) -> Stage:
    """b dials a for their link."""
    a, b = cluster
    a.run_daemon("--no-discovery", *arguments)
    b.run_daemon("--no-discovery", *server_arguments, peers=(a,))
    server = b.program("server")
    server.do(parts.serve, "lab")
    eventually(lambda: a.node.serving() == {("b", "lab")})
    return Stage(cluster, a, b, server)


@pytest.fixture
def box() -> Iterator[Namespace]:
    """The network of a container that has none."""
    network = Namespace("box")
    yield network
    network.close()


def talks_well(stage: Stage, caller: Program) -> None:
    """All kinds, a deadline and a cancel, on a connection that no daemon has a part in."""
    caller.do(ways_parts.all_kinds)
    initial, _ = caller.do(parts.with_metadata, ())
    assert {("caller-node", "a"), ("caller-pid", str(caller.pid)), ("caller-transport", "tcp")} <= set(initial)
    before = len(stage.server.do(parts.gone))
    with pytest.raises(CallError) as late:
        caller.do(parts.hold, 1.0)
    assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caller.do(parts.hold_and_cancel, 0.2)
    eventually(lambda: len(stage.server.do(parts.gone)) == before + 2)
    daemons = [host.node for host in stage.cluster]
    for daemon in daemons:
        daemon.signal(signal.SIGSTOP)
    try:
        caller.do(ways_parts.all_kinds)
    finally:
        for daemon in daemons:
            daemon.signal(signal.SIGCONT)


def explained(host: Host, network: Namespace) -> tuple[str, int]:
    """Why so, and how many connections with the server there were before."""
    command = "-m", "ipcd_client.cli", "explain", "lab.v1.Lab", "-o", "json", "--socket", host.node.socket
    told = json.loads(network.run(sys.executable, *command))
    return told["reason"], told["candidates"][0]["connections"]


def test_a_caller_without_a_network(make_cluster: MakeCluster, box: Namespace) -> None:
    stage = staged(make_cluster("a", "b"))
    caller = stage.a.program("boxed caller", box)
    assert caller.do(parts.who) == ("lab", stage.server.pid)
    way = caller.do(parts.way)
    assert way.transport == "tcp"
    assert "; node: node a dials, because the caller could not (" in way.reason
    assert "unreachable" in way.reason
    # The socket is of a's network, and the caller's.
    [its_end] = [one for one in stage.a.connections() if stage.server.pid not in one[2] and caller.pid in one[2]]
    assert its_end[1] == f"{stage.b.address}:{PORT}"
    assert its_end[2] == {caller.pid}
    reason, connections = explained(stage.a, box)
    assert "; node: node a dials, because the caller could not (" in reason
    # What could not be dialed is none.
    assert connections == 1
    talks_well(stage, caller)
    transport, reason = caller.do(ways_parts.all_kinds_on_a_loop)
    assert transport == "tcp"
    assert "; node: node a dials" in reason
    # Another caller there, with a network, dials for itself.
    assert explained(stage.a, stage.a.network)[0].endswith("; direct: the caller dials")


def test_a_caller_without_a_network_calls_its_own_host_over_tcp(make_cluster: MakeCluster, box: Namespace) -> None:
    stage = staged(make_cluster("a", "b"))
    caller = stage.b.program("boxed caller", box)
    way = caller.do(ways_parts.way_over_tcp)
    assert (way.node, way.pid, way.transport) == ("b", stage.server.pid, "tcp")
    assert "; node: node b dials, because the caller could not (" in way.reason


def test_the_nodes_dial_if_the_policy_asks(make_cluster: MakeCluster) -> None:
    stage = staged(make_cluster("a", "b"), "--reach", "node")
    caller = stage.a.program("caller")
    assert caller.do(parts.way).reason.endswith("; node: node a dials, because the setting reach is node")
    talks_well(stage, caller)


def test_nobody_else_dials_if_the_policy_forbids(make_cluster: MakeCluster, box: Namespace) -> None:
    stage = staged(make_cluster("a", "b"), "--reach", "direct")
    caller = stage.a.program("boxed caller", box)
    with pytest.raises(CallError) as alone:
        caller.do(parts.who, wait=False)
    assert alone.value.code is grpc.StatusCode.UNAVAILABLE
    assert f"cannot connect to {stage.b.address}:{PORT}: " in alone.value.details
    with_network = stage.a.program("caller")
    assert with_network.do(parts.who) == ("lab", stage.server.pid)


def test_the_servers_node_dials_back_through_a_firewall(make_cluster: MakeCluster, box: Namespace) -> None:
    stage = staged(make_cluster("a", "b"), "--grpc-listen", "127.0.0.1:0")
    stage.refuse_calls_from(stage.b, stage.a)
    dropped = f"{stage.b.address}:{PORT} did not answer within"
    back = "; reverse: node b dials back, because the caller could not ("
    free = stage.a.program("caller")
    for caller, why in ((free, dropped), (stage.a.program("boxed caller", box), "unreachable")):
        assert caller.do(parts.who) == ("lab", stage.server.pid)
        reason = caller.do(parts.way).reason
        assert back in reason
        assert why in reason
        assert f" and node a could not ({dropped}" in reason
        talks_well(stage, caller)
        transport, reason = caller.do(ways_parts.all_kinds_on_a_loop)
        assert transport == "tcp"
        # What worked is known by now, and nothing else was tried.
        assert back in reason
        assert "node a could not" not in reason
    # The gateway is a caller that lives in the node.
    assert free.do(ways_parts.who_by_grpc, stage.a.node.status().grpc[0]) == "lab"
    ends = [one for one in stage.b.connections() if one[2] == {stage.server.pid}]
    assert ends
    assert {other for _, other, _ in ends} == {f"{stage.a.address}:{PORT}"}


def test_the_servers_node_dials_back_where_its_address_leads_nowhere(make_cluster: MakeCluster) -> None:
    nowhere = "10.79.0.1"
    stage = staged(make_cluster("a", "b"), server_arguments=("--advertise", nowhere))
    stage.a.network.ip(f"route add unreachable {nowhere}/32")
    caller = stage.a.program("caller")
    reason = caller.do(parts.way).reason
    assert f"; reverse: node b dials back, because the caller could not (cannot connect to {nowhere}:{PORT}: " in reason
    assert f" and node a could not (cannot connect to {nowhere}:{PORT}: " in reason
    caller.do(ways_parts.all_kinds)


def test_calls_with_little_time_find_the_way_as_well(make_cluster: MakeCluster) -> None:
    stage = staged(make_cluster("a", "b"))
    stage.refuse_calls_from(stage.b, stage.a)
    caller = stage.a.program("caller")

    def answered() -> bool:
        try:
            caller.do(ways_parts.who_within, 1.0)
        except CallError as error:
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return False
        return True

    eventually(answered)


def test_no_way_at_all_and_then_one_again(make_cluster: MakeCluster) -> None:
    stage = staged(make_cluster("a", "b"))
    stage.refuse_calls_from(stage.b, stage.a)
    stage.refuse_calls_from(stage.a, stage.b)
    caller = stage.a.program("caller")
    with pytest.raises(CallError) as none:
        caller.do(parts.who, wait=False)
    assert none.value.code is grpc.StatusCode.UNAVAILABLE
    for words in ("the caller could not (", "node a could not (", "node b could not ("):
        assert words in none.value.details
    caller.begin(parts.who)
    stage.take_calls(stage.a)
    assert caller.result() == ("lab", stage.server.pid)
    stage.take_calls(stage.b)
    late = stage.a.program("late caller")
    assert late.do(parts.way).reason.endswith("; direct: the caller dials")


def test_the_servers_daemon_dies_and_comes_back(make_cluster: MakeCluster, box: Namespace) -> None:
    stage = staged(make_cluster("a", "b"))
    caller = stage.a.program("boxed caller", box)
    session = caller.do(parts.open_session)
    assert caller.do(parts.ask, session, "ls")
    stage.b.node.kill()
    eventually(lambda: not stage.a.node.linked())
    assert caller.do(parts.ask, session, "ls")
    late = stage.a.program("late boxed caller", box)
    with pytest.raises(CallError) as nobody:
        late.do(parts.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE
    late.begin(parts.who)
    stage.b.run_daemon("--no-discovery", peers=(stage.a,))
    assert late.result() == ("lab", stage.server.pid)
    assert "; node: node a dials" in late.do(parts.way).reason
    assert caller.do(parts.end_session, session) == "OK"
