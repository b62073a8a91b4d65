"""`ipcctl sem`, against two nodes."""

from __future__ import annotations

import signal
import threading
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import Any

import ipcd_client
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.ipcctl.runs import Done, running
from ipcd_client.cli import program
from ipcd_client.primitives.errors import NoSuchName
from ipcd_client.primitives.semaphore import Semaphore


def ctl(*arguments: str, node: Daemon) -> Done:
    """Runs it in this process: there are many."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = program.run(["-s", node.socket, *arguments])
    return Done(code, out.getvalue(), err.getvalue())


def test_semaphores(cluster: Daemons) -> None:
    b = cluster.run("b")
    a = cluster.run("a", "--peer", b.listen)
    a.logged("node linked", "b")
    assert ctl("sem", "ls", node=a).out == ""
    assert ctl("sem", "get", "s", node=a).code == 1
    assert ctl("sem", "ls", "s", node=a).code == 1
    assert ctl("sem", "make", "s@b", "3", "-o", "json", node=a).json == {"name": "s@b", "initial": 3, "value": 3}
    assert ctl("sem", "make", "s@b", "4", node=a).code == 4
    eventually(lambda: ctl("sem", "ls", "s", node=a).code == 0, "a knows of it")
    first = int(ctl("sem", "acquire", "s", "-n", "2", node=a).out)
    assert ctl("sem", "acquire", "s", "-n", "2", "--wait", "0.05", "-o", "json", node=b).error["code"] == "NOT_IN_TIME"
    assert ctl("sem", "acquire", "s", "-n", "2", "--wait", "0", node=b).code == 1
    done = ctl("sem", "operate", "s=-1", "s=0", "s=+1", "-o", "json", node=a)
    assert done.json["token"] > first
    assert ctl("sem", "release", "s", node=a).code == 0
    assert ctl("sem", "get", "s", node=b).out == "2\n"
    for wrong in (["operate", "s"], ["operate", "s=x"], ["acquire", "s", "-n", "0"], ["run", "s"], ["get", "a b"]):
        assert ctl("sem", *wrong, node=a).code in {2, 4}, wrong
    assert program.run(["-s", f"{cluster.folder}/none.sock", "sem", "get", "s"]) == 3

    # Who holds, who waits, and in which circle.
    with ipcd_client.semaphore("s", node=a.socket) as s:
        hold = s.hold()
        with running("sem", "run", "s", "-n", "2", "--", "true", node=b) as waits:
            eventually(lambda: rows(a)[0].get("waiting") == 1, "it waits")
            (row,) = rows(a)
            assert (row["node"], row["value"], row["initial"], row["held"]) == ("b", 1, 3, 1)
            assert row["holders"][0]["node"] == "a"
            assert (row["waiters"][0]["node"], row["waiters"][0]["pid"]) == ("b", waits.pid)
            shown = ctl("sem", "ls", node=a).out
            for word in (str(waits.pid), "holds", "waits"):
                assert word in shown
            hold.release()
            assert waits.wait(LONG) == 0
    done = ctl("sem", "run", "s", "--", "sh", "-c", "test $IPCD_TOKEN -gt 0 && exit 7", node=a)
    assert done.code == 7
    with running("sem", "run", "s", "--", "sh", "-c", "echo held; read x", node=a) as holds:
        assert holds.stdout is not None
        assert holds.stdout.readline() == "held\n"
        assert ctl("sem", "rm", "s", node=a).code == 0
        # What it held is lost, and so its command is ended.
        assert holds.wait(LONG) == 128 + signal.SIGTERM
    assert ctl("sem", "rm", "s", node=a).code == 1
    with running("sem", "run", "--value", "1", "t", "--", "sh", "-c", "echo held; exec sleep 60", node=a) as holds:
        assert holds.stdout is not None
        assert holds.stdout.readline() == "held\n"
        holds.send_signal(signal.SIGTERM)
        assert holds.wait(LONG) == 128 + signal.SIGTERM
    assert ctl("sem", "get", "t", node=a).out == "1\n"


def rows(node: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ctl("sem", "ls", "-o", "json", node=node).json["semaphores"]
    return found


def test_a_circle(cluster: Daemons) -> None:
    node = cluster.run("a")
    for name in "xy":
        assert ctl("sem", "make", name, "1", node=node).code == 0

    with ipcd_client.semaphore("x", node=node.socket) as x, ipcd_client.semaphore("y", node=node.socket) as y:
        both = threading.Barrier(2)

        def want(first: Semaphore, second: Semaphore) -> None:
            first.acquire()
            both.wait(LONG)
            with suppress(NoSuchName):
                second.acquire(wait=LONG)
            first.close()

        threads = [threading.Thread(target=want, args=pair) for pair in ((x, y), (y, x))]
        for thread in threads:
            thread.start()
        eventually(lambda: ctl("sem", "ls", "-o", "json", node=node).json["circles"], "there is a circle")
        (circle,) = ctl("sem", "ls", "x", "-o", "json", node=node).json["circles"]
        assert circle["home"] == "a"
        assert {wait["semaphore"] for wait in circle["waits"]} == {"x", "y"}
        text = ctl("sem", "ls", node=node).out
        assert "a circle: each waits for what the next one holds" in text
        assert " waits for x@a, for " in text
        assert ctl("sem", "rm", "x", node=node).code == 0
        for thread in threads:
            thread.join(LONG)
