"""`ipcctl signal`."""

from __future__ import annotations

import re
import subprocess
import sys

from integration.daemons import LONG, eventually
from integration.ipcctl.runs import World, ctl, running


def test_wait_and_raise(world: World) -> None:
    b = world.node("b")
    a = world.node("a", "--peer", b.listen)
    a.logged("node linked", "b")
    nobody = ctl("signal", "raise", "go", "-o", "json", node=a)
    assert (nobody.code, nobody.err) == (1, "")
    assert nobody.json == {
        "signal": "go",
        "listeners": 0,
        "nodes": [{"node": node, "listeners": 0, "error": None} for node in "ab"],
    }
    with (
        running("signal", "wait", "go", "--group", "g", node=b) as text,
        running("signal", "wait", "go", "-o", "json", node=b) as json,
    ):
        for process in (text, json):
            assert process.stdout is not None
        assert text.stderr is not None
        assert text.stderr.readline() == "listening for go at node b\n"
        eventually(lambda: len(ctl("signal", "ls", "-o", "json", node=a).json) == 2, "both listen")
        listed = ctl("signal", "ls", "go", node=a)
        assert re.fullmatch(
            r"SIGNAL  GROUP  NODE +PID +UID  AT  RAISED  COALESCED\n"
            rf"go      -      b +{json.pid} +\d+  b +0 +0\n"
            rf"go      g      b +{text.pid} +\d+  b +0 +0\n",
            listed.out,
        )
        done = ctl("signal", "raise", "go", "--group", "g", node=a)
        assert (done.code, done.out) == (0, "NODE  LISTENERS\na             0\nb             1\n")
        assert re.fullmatch(r"go was raised by pid \d+ on node a \(spiffe://\S+\)\n", text.stdout.read())  # type: ignore[union-attr]
        assert text.wait(LONG) == 0
        assert ctl("signal", "raise", "go", "--pid", f"{json.pid}@b", node=a).code == 0
        assert '"signal": "go"' in json.stdout.read()  # type: ignore[union-attr]
        assert json.wait(LONG) == 0
    b.kill()
    a.logged("node gone", "b")
    untold = ctl("signal", "raise", "go", node=a)
    assert untold.code == 1
    assert "there is no link with it" in untold.out
    assert ctl("signal", "ls", "go", node=a).code == 1


def test_the_answer_is_no(world: World) -> None:
    a = world.node("a")
    late = ctl("signal", "wait", "go", "--timeout", "2", "-o", "json", node=a)
    assert (late.code, late.error["code"]) == (1, "TIMED_OUT")
    assert ctl("signal", "wait", "a b", node=a).code == 2
    assert ctl("signal", "raise", "go", "--pid", "me", node=a).code == 2
    assert ctl("signal", "watch-exit", node=a).code == 2
    assert ctl("signal", "watch-exit", "--service", "x.X", node=a).code == 1
    assert ctl("signal", "raise", "go", "-s", "/nonexistent").code == 3


def test_watch_exit(world: World) -> None:
    a = world.node("a")
    sleeper = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read(); sys.exit(3)"]
    with (
        subprocess.Popen(sleeper, stdin=subprocess.PIPE) as watched,
        running("signal", "watch-exit", str(watched.pid), "--raise", "worker-exit", "-o", "json", node=a) as watch,
        running("signal", "watch-exit", f"{watched.pid}@a", node=a) as other,
        running("signal", "wait", "worker-exit", node=a) as wait,
    ):
        for process in (other, wait):
            assert process.stderr is not None
            assert process.stderr.readline().startswith(("watching process", "listening for"))
        assert watch.stdout is not None
        watches = f"/proc/{a.process.pid}/fd"
        eventually(lambda: _pidfds(watches) == 2, "both watch")
        assert watched.stdin is not None
        watched.stdin.close()
        told = watch.stdout.read()
        assert '"code": 3' in told
        assert '"source": "kernel"' in told
        assert watch.wait(LONG) == 0
        assert other.stdout is not None
        assert re.fullmatch(
            rf"\d\d:\d\d:\d\d  process {watched.pid} on node a ended with exit code 3\n", other.stdout.read()
        )
        assert wait.wait(LONG) == 0


def _pidfds(folder: str) -> int:
    return subprocess.run(["ls", "-l", folder], capture_output=True, text=True).stdout.count("[pidfd]")
