"""`ipcctl lock`, as a process."""

from __future__ import annotations

import subprocess
import sys

import ipcd_client
from integration.daemons import LONG, eventually
from integration.ipcctl.runs import ctl
from primitives.roads import Cluster


def test_running_while_holding(cluster: Cluster) -> None:
    a = cluster.front
    tokens = []
    for _ in range(2):
        done = ctl("lock", "run", "run@b", "--", "sh", "-c", "echo $IPCD_LOCK_TOKEN; exit 7", node=a)
        assert done.code == 7, done.err
        tokens.append(int(done.out))
    assert tokens[0] < tokens[1]
    assert ctl("lock", "run", "run@b", "--", "sh", "-c", "kill -9 $$", node=a).code == 128 + 9
    assert ctl("lock", "run", "run@b", "--", "/nowhere", node=a).code == 127
    assert ctl("lock", "run", "run@b", "--", "/", node=a).code == 126
    assert ctl("lock", "run", "a b", "--", "true", node=a).code == 4
    assert ctl("lock", "run", "run@b", "--range", "x", "--", "true", node=a).code == 2
    assert ctl("lock", "run", "x", "--", "true", "-s").code == 3


def test_without_waiting(cluster: Cluster) -> None:
    b = cluster.back
    with ipcd_client.lock("busy@a", node=b.socket).shared().range(10, 5):
        done = ctl("lock", "run", "busy@a", "--wait", "0", "-o", "json", "--", "echo", "no", node=b)
        assert (done.code, done.out, done.error["code"]) == (1, "", "TIMED_OUT")
        done = ctl("lock", "run", "busy@a", "--range", "10:5", "--shared", "--wait", "0", "--", "echo", "yes", node=b)
        assert (done.code, done.out) == (0, "yes\n")


def test_ls(cluster: Cluster) -> None:
    a, b = cluster
    assert ctl("lock", "ls", "nothing", node=a).code == 1
    here, there = ipcd_client.lock("ls@a", node=a.socket), ipcd_client.lock("ls@b", node=a.socket)
    with here.shared().range(10, 5), there as held:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "ipcd_client.cli", "-s", b.socket, "lock", "run", "ls@b", "--", "true"]
        )
        try:
            eventually(lambda: there.look().waiter_count, "it waits")
            eventually(lambda: len(ctl("lock", "ls", "ls", node=b, given="").out.splitlines()) == 4, "all are known")
            done = ctl("lock", "ls", "ls", node=a)
            rows = [line.split() for line in done.out.splitlines()[1:]]
            assert [(row[0], row[1], row[3], row[4], row[5]) for row in rows] == [
                ("ls", "a", "held", "shared", "10-14"),
                ("ls", "b", "held", "exclusive", "all"),
                ("ls", "b", "waits", "exclusive", "all"),
            ]
            first, second = ctl("lock", "ls", "ls", "-o", "json", node=a).json
            assert first["token"] == 0
            assert second["token"] == held.token
            assert second["waiters"][0]["pid"] == waiting.pid
            assert len(ctl("lock", "ls", "ls@b", "-o", "json", node=a).json) == 1
        finally:
            held.release()
            assert waiting.wait(LONG) == 0
    eventually(lambda: "free" in ctl("lock", "ls", "ls@b", node=a).out, "it is free")
    assert ctl("lock", "rm", "ls@b", node=a).code == 0
    assert ctl("lock", "rm", "ls@b", node=a).code == 1
