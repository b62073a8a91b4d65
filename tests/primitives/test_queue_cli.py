"""`ipcctl queue`, in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import ipcd_client
import pytest
from integration.daemons import Daemon
from integration.ipcctl.runs import Done, running
from ipcd_client.cli import program
from primitives.roads import Cluster, Road

Ctl = Callable[..., Done]


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Runs it to its end."""

    def run(*arguments: str, node: Daemon, given: str = "") -> Done:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            code = program.run(["-s", node.socket, *arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_every_verb(road: Road, ctl: Ctl) -> None:
    if road.kind == "gateway":
        pytest.skip("ipcctl asks its own node")
    node, name = road.front, road.name("q")
    plain = name.partition("@")[0]
    created = ctl("queue", "create", name, "--max-messages", "3", "-o", "json", node=node)
    assert (created.code, created.json) == (0, {"made": True, "queue": plain, "node": road.home.node})
    again = ctl("queue", "create", name, node=node)
    assert (again.code, again.err) == (0, f"there is a queue {plain} on node {road.home.node} already\n")
    assert ctl("queue", "create", name, "--exclusive", node=node).code == 1
    assert ctl("queue", "send", name, "one", "two", "--type", "2", node=node).code == 0
    assert ctl("queue", "send", name, "--priority", "9", node=node, given="urgent").code == 0
    full = ctl("queue", "send", name, "more", "--wait", "0.01", "-o", "json", node=node)
    assert (full.code, full.error["code"]) == (1, "FULL")
    assert ctl("queue", "peek", name, "-n", "9", node=node).out == "urgent\none\ntwo\n"
    stat = ctl("queue", "stat", name, "-o", "json", node=node).json
    assert (stat["ready"], stat["bytes"], stat["when_full"]) == (3, 12, "block")
    assert "max messages" in ctl("queue", "stat", name, node=node).out
    shown = ctl("queue", "receive", name, "--type", "-2", "-o", "json", node=node).json
    assert (shown["text"], shown["priority"], shown["deliveries"]) == ("urgent", 9, 1)
    assert ctl("queue", "receive", name, "-n", "2", node=node).out == "one\ntwo\n"
    empty = ctl("queue", "receive", name, "--wait", "0", node=node)
    assert (empty.code, empty.out) == (1, "")
    assert "there is nothing in queue" in empty.err
    assert ctl("queue", "peek", name, node=node).code == 1
    assert ctl("queue", "send", name, "--lines", node=node, given="a\nb\n").code == 0
    assert ctl("queue", "receive", name, "--follow", "--wait", "0", node=node).out == "a\nb\n"
    ctl("queue", "send", name, "x", node=node)
    rows = {row["queue"]: row for row in ctl("queue", "ls", "-o", "json", node=node).json}
    assert (rows[plain]["node"], rows[plain]["ready"], rows[plain]["error"]) == (road.home.node, 1, None)
    heading, *lines = ctl("queue", "ls", node=node).out.splitlines()
    assert heading.split()[:4] == ["QUEUE", "NODE", "READY", "DELAYED"]
    assert any(line.split()[:3] == [plain, road.home.node, "1"] for line in lines)
    assert ctl("queue", "purge", name, node=node).err == "1 message thrown away\n"
    assert ctl("queue", "rm", name, "-o", "json", node=node).json == {"messages": 0}
    for verb in ("rm", "stat", "purge", "peek", "receive"):
        gone = ctl("queue", verb, name, node=node)
        assert (gone.code, "there is no queue" in gone.err) == (4, True)
    assert ctl("queue", "send", name, "x", node=node).code == 4
    assert ctl("queue", "send", name, "x", "--create", node=node).code == 0
    assert ctl("queue", "send", "a b", "x", node=node).code in {2, 4}


def test_interrupted(cluster: Cluster, ctl: Ctl) -> None:
    node = cluster.front
    assert ctl("queue", "send", "followed", "--create", "x", node=node).code == 0
    with running("queue", "receive", "followed", "--follow", node=node) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        process.send_signal(2)
        assert process.wait(20) == 130
    assert ctl("queue", "receive", "followed", "--wait", "0", node=node).code == 1


def test_names_are_completed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    with ipcd_client.queue("complete.me", node=cluster.front.socket) as ours:
        ours.create()
    complete = ShellComplete(program.root, {}, "ipcctl", "_IPCCTL_COMPLETE")
    monkeypatch.setenv("IPCD_SOCKET", cluster.front.socket)
    assert [item.value for item in complete.get_completions(["queue", "stat"], "comp")] == ["complete.me"]
