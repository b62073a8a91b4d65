"""`ipcctl doctor`."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from integration.daemons import LONG, Daemon, eventually
from integration.ipcctl.runs import CTL, Done, World, ctl


def statuses(done: Done) -> dict[str, str]:
    """What it says of each check."""
    assert done.err == ""
    return {each["check"]: each["status"] for each in done.json}


def advice(done: Done, check: str) -> str:
    """What it says is to be done."""
    return "; ".join(each["advice"] for each in done.json if each["check"] == check)


def within(*command: str, node: Daemon) -> Done:
    """Runs it by another program."""
    done = subprocess.run(
        [*command, *CTL, "-s", node.socket, "-o", "json", "doctor"], capture_output=True, text=True, timeout=LONG
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_all_is_well(world: World) -> None:
    node = world.node("a")
    done = ctl("doctor", "-o", "json", node=node)
    found = statuses(done)
    # What this test's own process is given of descriptors is for the machine to say.
    found.pop("descriptors")
    assert found == dict.fromkeys(
        ("socket", "daemon", "version", "daemon descriptors", "multicast", "nodes", "shared memory"), "ok"
    )
    lines = ctl("doctor", node=node).out.splitlines()
    assert lines[0].split(maxsplit=2) == ["CHECK", "FOUND", "WHAT TO DO"]
    assert any(line.startswith("ok") and "node a, pid" in line for line in lines)


def test_nothing_is_there(tmp_path: Path) -> None:
    done = ctl("doctor", "-o", "json", "-s", str(tmp_path / "none.sock"))
    assert done.code == 1
    assert statuses(done)["socket"] == "fail"
    assert "ipcd run --socket" in advice(done, "socket")


def test_a_stale_socket(world: World) -> None:
    node = world.node("a")
    node.kill()
    done = ctl("doctor", "-o", "json", node=node)
    assert done.code == 1
    assert statuses(done)["daemon"] == "fail"
    assert "takes the file over" in advice(done, "daemon")


def test_a_daemon_that_is_stuck(world: World) -> None:
    node = world.node("a")
    node.process.send_signal(signal.SIGSTOP)
    done = ctl("doctor", "-o", "json", "--timeout", "0.5", node=node)
    assert done.code == 1
    assert statuses(done)["daemon"] == "fail"
    assert "restart it" in advice(done, "daemon")


def test_too_few_descriptors(world: World) -> None:
    node = world.node("a")
    result = within("sh", "-c", 'ulimit -n 100; exec "$@"', "sh", node=node)
    assert result.code == 1
    assert statuses(result)["descriptors"] == "fail"
    assert "ulimit -n" in advice(result, "descriptors")


def test_a_node_that_cannot_be_reached(world: World) -> None:
    node = world.node("a", "--peer", "127.0.0.1:1")

    def told() -> bool:
        return "127.0.0.1:1 is connecting: " in ctl("doctor", node=node).out

    eventually(told, "the reason is known")
    done = ctl("doctor", "-o", "json", node=node)
    assert done.code == 0
    assert statuses(done)["nodes"] == "warn"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_users_daemon(world: World) -> None:
    node = world.node("a")
    # The folder of the socket is open to its owner alone.
    result = within("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", node=node)
    if not result.out:
        pytest.skip("the interpreter is where others may not go")
    assert result.code == 1
    assert statuses(result)["socket"] == "fail"
    assert "daemon of your own" in advice(result, "socket")
