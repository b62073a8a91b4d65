"""`ipcctl command`, as a shell uses it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from integration.daemons import LONG, eventually
from integration.ipcctl.runs import CTL, ctl, running
from primitives.command_faces import gone, seen_from
from primitives.roads import Cluster


@pytest.fixture
def sh(cluster: Cluster) -> Iterator[str]:
    """A shell, offered on the other node by `ipcctl`."""
    offering = ["command", "serve", "sh", "--args", "*", "--env", "X", "--most", "2", "--grace", "0.3"]
    with running(*offering, "--", "sh", "-c", node=cluster.back) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "offering sh: sh -c\n"
        seen_from(cluster.front, "sh")
        yield "sh"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0


def test_one_shell_pipeline(cluster: Cluster, sh: str) -> None:
    done = ctl("command", "run", sh, "sort; echo problem >&2", node=cluster.front, given="b\na\n")
    assert (done.code, done.out, done.err) == (0, "a\nb\n", "problem\n")


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_exit_code_is_the_commands(cluster: Cluster, sh: str, script: str, code: int) -> None:
    assert ctl("command", "run", "--null", sh, script, node=cluster.front).code == code


def test_the_reader_goes_away(cluster: Cluster, sh: str) -> None:
    line = f"{' '.join(CTL)} -s {cluster.front.socket} command run -n {sh} yes | head -2"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.stderr) == ("y\ny\n", "")


def test_signals_are_passed_on(cluster: Cluster, sh: str) -> None:
    script = "trap 'echo hup' HUP; trap 'echo int; exit 3' INT; echo ready $$; while :; do sleep 0.05; done"
    with running("command", "run", "-n", sh, script, node=cluster.front) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "hup\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "int\n"
        assert process.wait(LONG) == 3


def test_what_does_not_heed_interrupts_is_given_up(cluster: Cluster, sh: str) -> None:
    script = "trap 'echo no' INT; echo $$; while :; do sleep 0.05; done"
    with running("command", "run", "-n", sh, script, node=cluster.front) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "no\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        gone(pid)


def test_what_is_offered(cluster: Cluster, sh: str) -> None:
    with running("command", "run", "-n", sh, "echo on; exec sleep 60", node=cluster.front) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        (row,) = ctl("command", "ls", sh, "-o", "json", node=cluster.front).json
        assert (row["command"], row["node"], row["program"]) == (sh, "b", ["sh", "-c"])
        assert (row["running"], row["most"], row["args"], row["env"]) == (1, 2, ["*"], ["X"])
        heading, line = ctl("command", "ls", node=cluster.front).out.splitlines()
        assert heading.split()[:2] == ["COMMAND", "NODE"]
        assert "1/2" in line
    done = ctl("command", "ls", "nothing", "-o", "json", node=cluster.front)
    assert (done.code, done.json, done.error["code"]) == (1, [], "NO_COMMAND")


def test_it_fails_in_words(cluster: Cluster, sh: str) -> None:
    for arguments, code, words in (
        (["run", "nothing"], 4, "UNAVAILABLE: no server 'nothing'"),
        (["run", "a b"], 4, "unprintable"),
        (["run", "--env", "X", sh, "true"], 2, "NAME=VALUE"),
        (["run", "--env", "Y=1", sh, "true"], 4, "X may be set"),
        (["run", sh, "--", "-x"], 4, "'-x' is not allowed"),
        (["serve", "a@b", "--", "true"], 4, "without @"),
        (["serve", "x"], 2, "Missing argument"),
    ):
        done = ctl("command", *arguments, node=cluster.front)
        assert (done.code, words in done.err) == (code, True), done


def test_what_was_ended_for_its_time_says_so(cluster: Cluster) -> None:
    with ExitStack() as stack:
        offering = ["command", "serve", "slow", "--time", "0.2", "--", "sleep", "60"]
        process = stack.enter_context(running(*offering, node=cluster.front))
        assert process.stdout is not None
        process.stdout.readline()
        done = ctl("command", "run", "-n", "slow", node=cluster.front)
        assert (done.code, "as long as it may" in done.err) == (143, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
    eventually(lambda: ctl("command", "ls", "slow", node=cluster.front).code == 1, "it is offered no more")
