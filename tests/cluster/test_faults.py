"""Cables, processes and hosts fail; what is left goes on, and what comes back is used again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from cluster import parts
from cluster.eventually import eventually
from cluster.hosts import Cluster, Host
from cluster.program import CallError, Program

if TYPE_CHECKING:
    from cluster.conftest import MakeCluster


@dataclass
class Pair:
    """A caller on a, a server on b, and a session between them under way."""

    cluster: Cluster
    a: Host
    b: Host
    caller: Program
    server: Program
    session: int

    def session_goes_on(self) -> bool:
        return bool(self.caller.do(parts.ask, self.session, "digest abc.py"))


@pytest.fixture
def pair(make_cluster: MakeCluster) -> Pair:
    cluster = make_cluster("a", "b")
    a, b = cluster
    for host in cluster:
        host.run_daemon()
    caller, server = a.program("caller"), b.program("server")
    server.do(parts.serve, "lab")
    assert caller.do(parts.who) == ("lab", server.pid)
    pair = Pair(cluster, a, b, caller, server, caller.do(parts.open_session))
    assert pair.session_goes_on()
    return pair


def fails_unavailable(caller: Program, *words: str) -> None:
    """What the caller has begun does, in due time, and says with whom."""
    with pytest.raises(CallError) as failed:
        caller.result()
    assert failed.value.code is grpc.StatusCode.UNAVAILABLE, failed.value
    for word in words:
        assert word in failed.value.details, failed.value


@pytest.mark.parametrize("where", ["at the switch", "at the caller's host"])
def test_a_link_is_cut_and_healed(pair: Pair, where: str) -> None:
    a, b = pair.a, pair.b
    incarnations = {host.name: host.node.status().incarnation for host in pair.cluster}
    if where == "at the switch":
        b.pull_cable()
    else:
        a.interface("down")
    pair.caller.begin(parts.wait_for_end, pair.session)
    fails_unavailable(pair.caller, "lab", f"pid {pair.server.pid}", "node b")
    for host in pair.cluster:
        eventually(lambda host=host: not host.node.linked())  # type: ignore[misc]
    eventually(lambda: not a.node.serving())
    assert b.node.serving() == {("b", "lab")}
    with pytest.raises(CallError) as nobody:
        pair.caller.do(parts.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE
    # The server has let go of the caller, too.
    eventually(lambda: not [one for one in b.connections() if pair.server.pid in one[2]], what=b.connections)
    b.plug_cable()
    a.interface("up")
    pair.cluster.all_linked()
    assert pair.caller.do(parts.who) == ("lab", pair.server.pid)
    again = pair.caller.do(parts.open_session)
    assert pair.caller.do(parts.ask, again, "stat abc.py")
    assert incarnations == {host.name: host.node.status().incarnation for host in pair.cluster}


def test_a_call_that_sends_notices_the_cut(pair: Pair) -> None:
    pair.b.pull_cable()
    pair.caller.begin(parts.digest_stream, b"x" * 65536, 1000)
    fails_unavailable(pair.caller, "lab", "node b")
    pair.b.plug_cable()
    assert pair.caller.do(parts.who) == ("lab", pair.server.pid)


def test_a_short_cut_costs_nothing(pair: Pair) -> None:
    # TCP sends again what was lost; a second is well below what any heartbeat takes for an end.
    pair.b.pull_cable()
    pair.caller.begin(parts.ask, pair.session, "digest abc.py")
    time.sleep(0.5)
    pair.b.plug_cable()
    assert pair.caller.result()
    assert pair.session_goes_on()


def test_a_session_survives_the_daemons(pair: Pair) -> None:
    for host in pair.cluster:
        host.node.kill()
        assert pair.session_goes_on()
    # On the connection that is there, new calls go on as well.
    assert pair.caller.do(parts.who) == ("lab", pair.server.pid)
    late = pair.a.program("late caller")
    with pytest.raises(CallError) as nobody:
        late.do(parts.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE
    assert pair.a.node.socket in nobody.value.details
    for host in pair.cluster:
        host.run_daemon()
    pair.cluster.all_linked()
    eventually(lambda: pair.a.node.serving() == {("b", "lab")})
    # Nobody was started again.
    assert late.do(parts.who) == ("lab", pair.server.pid)
    assert pair.session_goes_on()
    pair.caller.do(parts.pin, "ipcd://b")
    assert pair.caller.do(parts.who) == ("lab", pair.server.pid)


@pytest.mark.parametrize("which", ["a", "b"])
def test_one_daemon_is_killed_and_comes_back(pair: Pair, which: str) -> None:
    other = {"a": pair.b, "b": pair.a}[which]
    pair.cluster[which].node.kill()
    eventually(lambda: not other.node.linked())
    assert pair.session_goes_on()
    pair.cluster[which].run_daemon()
    pair.cluster.all_linked()
    eventually(lambda: pair.a.node.serving() == {("b", "lab")})
    assert pair.session_goes_on()
    assert pair.a.program("late caller").do(parts.who) == ("lab", pair.server.pid)


def test_a_server_is_killed_in_a_call(pair: Pair) -> None:
    pair.caller.begin(parts.hold)
    assert pair.server.do(parts.wait_held)
    pair.server.process.kill()
    fails_unavailable(pair.caller, "lab", f"pid {pair.server.pid}", "node b")
    eventually(lambda: not pair.a.node.serving())
    successor = pair.b.program("successor")
    successor.do(parts.serve, "lab")
    assert pair.caller.do(parts.who) == ("lab", successor.pid)


def test_every_process_of_a_host_is_killed(pair: Pair) -> None:
    pair.caller.begin(parts.wait_for_end, pair.session)
    pair.b.kill_all()
    fails_unavailable(pair.caller, "node b")
    eventually(lambda: not pair.a.node.linked())
    eventually(lambda: not pair.a.node.serving())


def test_a_host_loses_its_power_and_comes_back(pair: Pair) -> None:
    before = pair.b.node.status().incarnation
    pair.caller.begin(parts.wait_for_end, pair.session)
    # In silence: nobody is told that a connection has ended.
    pair.b.pull_cable()
    pair.b.kill_all()
    fails_unavailable(pair.caller, "node b")
    eventually(lambda: not pair.a.node.linked())
    eventually(lambda: not pair.a.node.serving())
    pair.b.plug_cable()
    pair.b.run_daemon()
    server = pair.b.program("server")
    server.do(parts.serve, "lab")
    assert pair.caller.do(parts.who) == ("lab", server.pid)
    pair.cluster.all_linked()
    assert pair.a.node.linked()["b"].incarnation == pair.b.node.status().incarnation != before


def test_calls_go_on_elsewhere(make_cluster: MakeCluster) -> None:
    cluster = make_cluster("a", "b", "c")
    a, b, c = cluster
    for host in cluster:
        host.run_daemon()
    servers = {host.name: host.program("server") for host in (b, c)}
    for name, server in servers.items():
        server.do(parts.serve, name)
    eventually(lambda: len(a.node.serving()) == 2)
    caller = a.program("caller")
    first, pid = caller.do(parts.who)
    assert pid == servers[first].pid
    cluster[first].kill_all()
    [second] = {"b", "c"} - {first}

    def answered_by() -> tuple[str, int]:
        try:
            return caller.do(parts.who)
        except CallError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            # It was sent before the caller had heard of the end, so for all it knows it was carried out.
            return "", 0

    eventually(lambda: answered_by() == (second, servers[second].pid))
