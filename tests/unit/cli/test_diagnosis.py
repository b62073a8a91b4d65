"""What `ipcctl doctor` makes of facts."""

from __future__ import annotations

import stat

import pytest
from ipcd_client.cli import diagnosis
from ipcd_client.cli.diagnosis import Finding
from ipcd_client.pb.ipcd.v1 import node_pb2

SOCKET = stat.S_IFSOCK
UP, LOOPBACK, MULTICAST = 0x1, 0x8, 0x1000


def outcome(finding: Finding, words: str = "") -> str:
    """Its status; what is not well says what to do."""
    assert bool(finding.advice) == (finding.status != "ok"), finding
    assert words in finding.text + finding.advice
    return finding.status


@pytest.mark.parametrize(
    ("mode", "owner", "uid", "status", "words"),
    [
        (SOCKET | 0o600, 1000, 1000, "ok", "mode 0600"),
        (SOCKET | 0o600, 1000, 0, "ok", "uid 1000"),
        (SOCKET | 0o660, 1000, 1000, "warn", "chmod 0600"),
        (SOCKET | 0o666, 1000, 1000, "ok", "rules say who is let in"),
        (SOCKET | 0o666, 1000, 1001, "ok", "rules say who is let in"),
        (SOCKET | 0o600, 1000, 1001, "fail", "this is uid 1001"),
        (stat.S_IFREG | 0o600, 1000, 1000, "fail", "is not a socket"),
        (None, 0, 1000, "fail", "ipcd run --socket /s"),
    ],
)
def test_socket_file(mode: int | None, owner: int, uid: int, status: str, words: str) -> None:
    assert outcome(diagnosis.socket_file("/s", mode, owner, uid), words) == status


def test_stale_socket() -> None:
    assert outcome(diagnosis.stale("/s"), "ipcd run --socket /s") == "fail"


@pytest.mark.parametrize(("version", "insecure", "expected"), [("1", False, []), ("2", False, ["version"])])
def test_daemon(version: str, insecure: bool, expected: list[str]) -> None:
    status = node_pb2.StatusReply(node="a", version=version, insecure=insecure, pid=1, uptime=3)
    found = diagnosis.daemon(status, "1", 0.001)
    assert [each.check for each in found if outcome(each) != "ok"] == expected


def test_insecure_daemon_is_said_to_be_so() -> None:
    status = node_pb2.StatusReply(node="a", version="1", insecure=True, listen="10.0.0.1:1")
    assert [outcome(each) for each in diagnosis.daemon(status, "1", 0.001)] == ["ok", "ok", "warn"]


@pytest.mark.parametrize(("soft", "status"), [(100, "fail"), (1024, "warn"), (20000, "ok"), (-1, "ok")])
def test_descriptors(soft: int, status: str) -> None:
    assert outcome(diagnosis.descriptors(soft)) == status


@pytest.mark.parametrize(("used", "status"), [(15, "ok"), (79, "ok"), (80, "warn"), (100, "warn")])
def test_daemon_descriptors(used: int, status: str) -> None:
    assert outcome(diagnosis.daemon_descriptors(used, 100)) == status


@pytest.mark.parametrize(("problem", "status"), [("", "ok"), ("no memory", "warn")])
def test_shared_memory(problem: str, status: str) -> None:
    assert outcome(diagnosis.shared_memory(problem), problem) == status


@pytest.mark.parametrize(
    ("discovery", "listen", "flags", "status", "words"),
    [
        (["zeroconf"], "10.0.0.1:1", UP | MULTICAST, "ok", "can be sent on eth0"),
        (["zeroconf"], "10.0.0.1:1", MULTICAST, "warn", "--peer"),
        (["zeroconf"], "[::]:1", UP, "warn", "--peer"),
        (["zeroconf"], "10.0.0.1:1", UP | MULTICAST | LOOPBACK, "warn", "--peer"),
        (["zeroconf"], "127.0.0.1:1", 0, "ok", "for this machine alone"),
        (["zeroconf"], "[::1]:1", 0, "ok", "for this machine alone"),
        (["peers"], "10.0.0.1:1", 0, "ok", "by named peers"),
        ([], "10.0.0.1:1", 0, "ok", "not looked for"),
    ],
)
def test_multicast(discovery: list[str], listen: str, flags: int, status: str, words: str) -> None:
    assert outcome(diagnosis.multicast(discovery, listen, {"eth0": flags}), words) == status


@pytest.mark.parametrize(
    ("state", "facts", "expected", "words"),
    [
        ("linked", {"version": "1"}, "ok", "1 linked"),
        ("linked", {"version": "1", "clock_offset": 0.5}, "ok", "1 linked"),
        ("linked", {"version": "1", "clock_offset": -90.0, "clock_error": 0.1}, "warn", "differs by 1 min 30 s"),
        ("linked", {"version": "1", "clock_offset": 2.0, "clock_error": 5.0}, "ok", "1 linked"),
        ("linked", {"version": "2"}, "warn", "is 2, this one 1"),
        ("suspect", {"version": "1"}, "warn", "is suspect"),
        ("connecting", {"error": "Connection refused"}, "warn", "Connection refused"),
    ],
)
def test_nodes(state: str, facts: dict[str, object], expected: str, words: str) -> None:
    own = node_pb2.NodeInfo(node="a", version="1")
    other = node_pb2.NodeInfo(node="b", address="10.0.0.2:1", **facts)  # type: ignore[arg-type]
    (found,) = diagnosis.nodes([own, other], ["self", state])
    assert outcome(found, words) == expected


def test_two_nodes_of_one_name() -> None:
    own = node_pb2.NodeInfo(node="a", version="1")
    other = node_pb2.NodeInfo(node="a", address="10.0.0.2:1", error="two nodes are named 'a'")
    (found,) = diagnosis.nodes([own, other], ["self", "connecting"])
    assert outcome(found, "10.0.0.2:1: two nodes are named 'a'") == "fail"


def test_a_node_alone() -> None:
    (found,) = diagnosis.nodes([node_pb2.NodeInfo(node="a", version="1")], ["self"])
    assert outcome(found, "no other nodes") == "ok"


@pytest.mark.parametrize(
    ("days", "status", "words"), [(100, "ok", "100 more days"), (29, "warn", "29 more days"), (-1, "fail", "expired")]
)
def test_certificate(days: int, status: str, words: str) -> None:
    node = node_pb2.StatusReply(node="a", identity="spiffe://c/node/a", certificate_expires=1e9 + days * 86400)
    (finding,) = diagnosis.certificate(node, 1e9)
    assert finding.status == status
    assert words in finding.text
    assert ("ipcctl cert issue a" in finding.advice) is (status != "ok")


def test_no_certificate() -> None:
    assert diagnosis.certificate(node_pb2.StatusReply(node="a"), 1e9) == []
