"""Commands: offered and run, on every road, from threads and from loops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, eventually
from ipcd_client.primitives import command_run
from ipcd_client.primitives.errors import BadRequest, CannotStart, Full, TimedOut
from ipcd_client.rpc.failure import CallFailed
from primitives.command_faces import Face, Offers, alive, gone
from primitives.roads import Road


@pytest.fixture(params=["sync", "aio"])
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Face]:
    face = Face(request.param, road)
    yield face
    face.close()


def test_input_outputs_and_exit_code(face: Face, offer: Offers) -> None:
    name = offer("sh", "sh", "-c", "cat; echo problem >&2; exit 7")
    done = face.run(name, input=b"one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"one\ntwo\n", b"problem\n")


def test_more_than_any_window_both_ways(face: Face, offer: Offers) -> None:
    name = offer("cat", "cat")
    data = os.urandom(1 << 20) * 3
    assert face.run(name, input=data).stdout == data


def test_one_that_reads_no_input(face: Face, offer: Offers) -> None:
    name = offer("true", "sh", "-c", "exec <&-; sleep 0.2; echo done")
    done = face.run(name, input=b"x" * (1 << 20))
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_without_input_it_is_empty(face: Face, offer: Offers) -> None:
    name = offer("wc", "wc", "-c")
    assert face.run(name).stdout.strip() == b"0"


def test_arguments_and_environment_as_offered(face: Face, offer: Offers) -> None:
    name = offer("show", "sh", "-c", 'echo "$A-$B $@"', "sh", args=("*.txt", "-v"), args_most=2, env=("A", "B=[0-9]"))
    done = face.run(name, "-v", "x y.txt", env={"A": "$HOME", "B": "5"})
    assert done.stdout == b"$HOME-5 -v x y.txt\n"
    for args, env, words in (
        (["a.txt"] * 3, {}, "at most 2"),
        (["a.md"], {}, "a.md"),
        (["-x.txt"], {}, "-x.txt"),
        ([], {"B": "55"}, "B='55'"),
        ([], {"LD_PRELOAD": "x"}, "LD_PRELOAD"),
        (["a\0.txt"], {}, "zero byte"),
        (["x" * 70000 + ".txt"], {}, "bytes"),
    ):
        with pytest.raises(BadRequest, match=words):
            face.run(name, *args, env=env)


def test_by_default_nothing_may_be_added(face: Face, offer: Offers) -> None:
    name = offer("plain", "true")
    with pytest.raises(BadRequest, match="none is allowed"):
        face.run(name, "x")
    with pytest.raises(BadRequest, match="nothing may be set"):
        face.run(name, env={"X": "1"})
    with pytest.raises(BadRequest, match="outlive"):
        face.run(name, detach=True)


def test_killed_by_a_signal(face: Face, offer: Offers) -> None:
    assert face.run(offer("die", "sh", "-c", "kill -9 $$")).returncode == -9


def test_a_program_that_is_not_there(face: Face, offer: Offers) -> None:
    with pytest.raises(CannotStart, match="No such file"):
        face.run(offer("none", "/does/not/exist"))
    with pytest.raises(CannotStart, match="Permission denied"):
        face.run(offer("folder", "/etc"))


def test_nobody_offers_it(face: Face, road: Road) -> None:
    with pytest.raises(CallFailed, match="no server 'nothing'") as caught:
        face.run(f"nothing@{road.home.node}")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("command", ["grep foo", b"grep", [5], ["grep", None], []])
def test_what_is_no_program(command: Any) -> None:
    """Told at once, and not by the first run."""
    with pytest.raises(BadRequest, match="a command"):
        ipcd_client.command("x").serve(command)
    with pytest.raises(BadRequest, match="a command"):
        asyncio.run(ipcd_client.aio.command("x").serve(command))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "@b", "a@", "x" * 129])
def test_wrong_names(name: str) -> None:
    for make in (ipcd_client.command, ipcd_client.aio.command):
        with pytest.raises(BadRequest):
            make(name)


def test_as_many_run_as_may(face: Face, road: Road, offer: Offers) -> None:
    name = offer("one", "cat", most=1, waiting=1)
    with ipcd_client.command(name, **road.keywords) as command:
        first = command.popen(stdin=PIPE)
        with pytest.raises(Full, match="1 run already, of at most 1"):
            face.run(name)
        with pytest.raises(TimedOut, match=r"no place within 0\.05 s"):
            face.run(name, wait=0.05)
        waiting = threading.Thread(target=face.run, args=[name], kwargs={"wait": None})
        waiting.start()
        eventually(lambda: command.describe().waiting, "somebody waits")
        with pytest.raises(Full, match="wait for their turn"):
            face.run(name, wait=5)
        assert first.communicate() == (None, None)
        first.close()
        waiting.join(LONG)
        assert not waiting.is_alive()
        eventually(lambda: not command.describe().running, "nothing runs")
        assert command.describe().started == 2


def test_no_longer_than_it_may(face: Face, offer: Offers) -> None:
    name = offer("long", "sleep", "60", seconds=0.1)
    assert face.run(name).returncode == -signal.SIGTERM


def test_what_ignores_sigterm_gets_sigkill(road: Road, offer: Offers) -> None:
    name = offer("deaf", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done", grace=0.2)
    with ipcd_client.command(name, **road.keywords) as command:
        process = command.popen(stdout=PIPE)
        assert process.stdout is not None
        # Before that it would be ended by SIGTERM.
        assert process.stdout.readline() == b"deaf\n"
        process.close()
        gone(process.pid)
        eventually(lambda: not command.describe().running, "nothing runs")


def test_what_it_leaves_behind_ends_after_the_grace(face: Face, offer: Offers) -> None:
    name = offer("leave", "sh", "-c", "sleep 60 & echo $!", grace=0.2)
    done = face.run(name)
    assert done.returncode == 0
    gone(int(done.stdout))


def test_descriptors_group_and_session(face: Face, offer: Offers) -> None:
    name = offer("look", "sh", "-c", "ls /proc/self/fd | wc -l; ps -o pgid=,sid= -p $$; echo $$")
    # ls itself opens the directory.
    fds, group, session, pid = face.run(name).stdout.split()
    assert (int(fds), group, session) == (4, pid, pid)


def test_a_time_out_of_the_caller_ends_it(face: Face, road: Road, offer: Offers, tmp_path: Path) -> None:
    name = offer("say", "sh", "-c", "echo $$ > $OUT; exec sleep 60", env=("OUT",))
    out = tmp_path / "out"
    with pytest.raises(subprocess.TimeoutExpired):
        face.run(name, timeout=2.0, env={"OUT": str(out)})
    with ipcd_client.command(name, **road.keywords) as command:
        eventually(lambda: not command.describe().running, "nothing runs")
        assert command.describe().started == 1
    # It may have been ended before it could say so.
    if out.exists() and (said := out.read_text()):
        assert not alive(int(said))


def test_a_caller_says_that_it_has_all(face: Face, offer: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody waits for the end of that.
    monkeypatch.setattr(command_run, "_FAREWELL", 4 * LONG)
    done = face.run(offer("out", "sh", "-c", "cat; echo out; echo err >&2"), input=b"in\n", timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\nout\n", b"err\n")
