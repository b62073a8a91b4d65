"""Calls from one host to another, with the generated stubs and the demo's service."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from cluster import parts
from cluster.eventually import LONG, eventually
from cluster.hosts import PORT, Cluster
from cluster.program import CallError, Program

if TYPE_CHECKING:
    from cluster.conftest import MakeCluster


@dataclass
class Stage:
    """Hosts with their daemons, and a server on b."""

    cluster: Cluster
    server: Program

    def caller(self, host: str, name: str = "caller") -> Program:
        """A program there that has called the server."""
        program = self.cluster[host].program(name)
        assert program.do(parts.who) == ("lab", self.server.pid)
        return program


@pytest.fixture
def stage(make_cluster: MakeCluster) -> Stage:
    """Two hosts."""
    return serving(make_cluster("a", "b"))


@pytest.fixture
def wide_stage(make_cluster: MakeCluster) -> Stage:
    """Three."""
    return serving(make_cluster("a", "b", "c"))


def serving(cluster: Cluster) -> Stage:
    for host in cluster:
        host.run_daemon()
    server = cluster["b"].program("server")
    server.do(parts.serve, "lab")
    return Stage(cluster, server)


def test_all_four_kinds(wide_stage: Stage) -> None:
    chunk = bytes(range(256)) * 256  # 64 KiB
    for caller in [wide_stage.caller(host) for host in "abc"]:
        assert caller.do(parts.digest, b"") == hashlib.sha256().hexdigest()
        # Far more than the window of a call, and than what the kernel takes at once.
        large = chunk * 40
        assert caller.do(parts.digest, large, "md5") == hashlib.md5(large).hexdigest()
        assert caller.do(parts.digest_stream, chunk, 300) == (hashlib.sha256(chunk * 300).hexdigest(), 300 << 16)
        hits = caller.do(parts.search, r"^class \w+", "json/*.py", 50)
        assert ("json/decoder.py", "class JSONDecoder(object):") in [(file, text) for file, _, text in hits]
        assert len(caller.do(parts.search, "import", "**/*.py", 3000)) == 3000
        session = caller.do(parts.open_session)
        assert caller.do(parts.ask, session, "cd json")
        assert "decoder.py" in " ".join(caller.do(parts.ask, session, "ls"))
        assert caller.do(parts.ask, session, "digest decoder.py")
        assert caller.do(parts.end_session, session) == "OK"


def test_the_way_is_tcp_straight_from_process_to_process(stage: Stage) -> None:
    a, b = stage.cluster
    far, near = stage.caller("a"), stage.caller("b")
    for caller, transport in ((far, "tcp"), (near, "shm")):
        way = caller.do(parts.way)
        assert (way.node, way.name, way.pid, way.transport) == ("b", "lab", stage.server.pid, transport)
        assert way.reason
    # Each end of the connection is of one process, and no daemon is between.
    [its_end] = [one for one in a.connections() if far.pid in one[2]]
    assert its_end[1] == f"{b.address}:{PORT}"
    assert its_end[2] == {far.pid}
    [other_end] = [one for one in b.connections() if one[:2] == (its_end[1], its_end[0])]
    assert other_end[2] == {stage.server.pid}
    daemons = [host.node for host in stage.cluster]
    for daemon in daemons:
        daemon.signal(signal.SIGSTOP)
    try:
        assert far.do(parts.digest, b"x" * 100_000)
        assert near.do(parts.search, "def", "*.py", 100)
    finally:
        for daemon in daemons:
            daemon.signal(signal.SIGCONT)


def test_ipcctl_explains_it(stage: Stage) -> None:
    stage.cluster.all_linked()
    for name, transport in (("a", "tcp"), ("b", "shm")):
        host = stage.cluster[name]
        command = "-m", "ipcd_client.cli", "explain", "lab.v1.Lab", "-o", "json", "--socket", host.node.socket
        told = json.loads(host.network.run(sys.executable, *command))
        assert told["transport"] == transport
        assert told["node"] == "b"
        assert told["pid"] == stage.server.pid
        assert told["reason"]


def test_metadata_identity_and_errors(stage: Stage) -> None:
    sent: parts.Metadata = (("x-twice", "1"), ("x-twice", "2"), ("x-raw-bin", b"\x00\xff"))
    for host, transport in (("a", "tcp"), ("b", "shm")):
        caller = stage.caller(host)
        initial, trailing = caller.do(parts.with_metadata, sent)
        assert ("first-bin", b"\x00\xff") in initial
        assert ("caller-node", host) in initial
        assert ("caller-pid", str(caller.pid)) in initial
        assert ("caller-transport", transport) in initial
        assert trailing == sent
        with pytest.raises(CallError) as aborted:
            caller.do(parts.with_metadata, (("x-abort", "not so"), ("x-why", "test")))
        assert aborted.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert aborted.value.details == "not so"
        assert ("x-why", "test") in aborted.value.trailing
        with pytest.raises(CallError) as refused:
            caller.do(parts.digest, b"", "rot13")
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "rot13" in refused.value.details
        with pytest.raises(CallError) as broken:
            caller.do(parts.search, "(", "*.py", 1)
        assert broken.value.code is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(CallError) as over:
            caller.do(parts.digest, b"x" * ((3 << 20) + 1))
        assert over.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_deadline_and_cancel_reach_the_handler(stage: Stage) -> None:
    caller = stage.caller("a")
    with pytest.raises(CallError) as late:
        caller.do(parts.hold, 1.0)
    assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: len(stage.server.do(parts.gone)) == 1)
    first = stage.server.do(parts.gone)[0]
    assert 0 < first.time_left <= 1.0  # the deadline travels as the time left
    assert first.lasted < LONG
    assert caller.do(parts.hold_and_cancel, 0.2)
    eventually(lambda: len(stage.server.do(parts.gone)) == 2)
    assert 1.0 < stage.server.do(parts.gone)[1].time_left <= LONG
    assert caller.do(parts.search_some, "e", 10) == "CANCELLED"
    # The connection is as good as before.
    [before] = [one for one in stage.cluster["a"].connections() if caller.pid in one[2]]
    assert caller.do(parts.who) == ("lab", stage.server.pid)
    assert [before] == [one for one in stage.cluster["a"].connections() if caller.pid in one[2]]


def test_who_is_near_is_chosen_and_a_pin_is_kept(stage: Stage) -> None:
    old = stage.caller("a")
    near = stage.cluster["a"].program("server")
    near.do(parts.serve, "near")
    fresh = stage.cluster["a"].program("fresh caller")
    assert fresh.do(parts.who) == ("near", near.pid)
    assert fresh.do(parts.way).transport == "shm"
    # A connection that is good is kept.
    assert old.do(parts.who)[0] == "lab"
    for target, name in (("ipcd://b", "lab"), ("ipcd://a", "near"), ("ipcd:///lab", "lab"), ("ipcd://a/near", "near")):
        fresh.do(parts.pin, target)
        assert fresh.do(parts.who)[0] == name
    fresh.do(parts.pin, "ipcd://b/near")
    with pytest.raises(CallError) as nobody:
        fresh.do(parts.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE
    assert "lab.v1.Lab" in nobody.value.details
    # It goes to another host when there is nobody left on its own.
    fresh.do(parts.pin, "ipcd:")
    assert fresh.do(parts.who)[0] == "near"
    near.do(parts.stop)
    assert fresh.do(parts.who) == ("lab", stage.server.pid)
    assert fresh.do(parts.way).transport == "tcp"
