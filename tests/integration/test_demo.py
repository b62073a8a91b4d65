"""`ipcd demo` as a person or a program runs it; what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipcd.demo import nodes
from ipcd.demo.processes import Children, StageError

PATIENCE = 60.0  # seconds: the demo's own promise is under a minute


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for what a run makes, of a path short enough for UNIX sockets; it must be empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as name:
        yield Path(name)
        assert not list(Path(name).iterdir())
        assert not processes_of(name)


@pytest.fixture
def start(scratch: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | {"TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def processes_of(directory: str) -> list[str]:
    """Command lines that name the directory, as those of the demo's daemons, servers and clients do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if directory in line:
            found.append(line)
    return found


def line_with(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Reads what the process says until a line matches."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"it never said {pattern!r}, but:\n{said}{process.stderr and process.stderr.read()}")


def test_the_whole_run(start: Callable[..., subprocess.Popen[str]]) -> None:
    began = time.monotonic()
    run = start("-m", "ipcd", "demo", "--quick", "-o", "json")
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    assert told["ok"] is True
    assert told["found_by"] == "zeroconf", err
    assert 0 < told["seconds"] <= time.monotonic() - began
    rows = {row["transport"]: row for row in told["transports"]}
    assert {"shm", "unix", "tcp", "grpcio unix", "grpcio tcp"} <= rows.keys()
    assert rows["shm"]["caller"] == rows["unix"]["caller"] == "a"
    assert rows["tcp"]["caller"] == "b"
    for row in rows.values():
        assert row["why"]
        assert row["calls"] > 10
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["per_second"] > 0
    for work in told["work"]:
        assert work["right"] == list(rows)
        assert work["wrong"] == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    start: Callable[..., subprocess.Popen[str]], scratch: Path, number: signal.Signals
) -> None:
    run = start("-m", "ipcd", "demo")
    line_with(run, r"^measuring: [1-9]")
    assert len(processes_of(str(scratch))) >= 7  # two nodes, a server, grpcio's, and the clients
    run.send_signal(number)
    out, err = run.communicate(timeout=10)
    assert run.returncode == 130
    assert err == "ipcd demo: interrupted; what was started has been ended\n"
    assert "Traceback" not in out


def test_interrupted_while_it_starts_it_leaves_nothing(start: Callable[..., subprocess.Popen[str]]) -> None:
    run = start("-m", "ipcd", "demo")
    line_with(run, r"^node a: process")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=10)
    assert run.returncode == 130


def test_a_server_that_dies_is_a_failure_that_says_so(start: Callable[..., subprocess.Popen[str]]) -> None:
    run = start("-m", "ipcd", "demo", "--quick")
    server = int(line_with(run, r"served by process (\d+) on node a")[1])
    line_with(run, r"^measuring: [1-9]")
    os.kill(server, signal.SIGKILL)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1
    assert re.search(r"^ipcd demo: the client: ipcd, .*: UNAVAILABLE", err), err


def test_nodes_that_do_not_find_each_other_are_introduced_and_it_is_said(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nodes._know_each_other
    looks = iter([False])
    monkeypatch.setattr(nodes, "_know_each_other", lambda *pair: next(looks, True) and real(*pair))
    said: list[str] = []
    with tempfile.TemporaryDirectory(dir=scratch) as name, Children(Path(name)) as children:
        pair = nodes.start_pair(children, Path(name), said.append)
        assert pair.how == "--peer"
        assert said[-1] == (
            f"they have not found each other by zeroconf in 5 s: starting b again with --peer {pair.a.listen}"
        )


def test_a_node_that_does_not_come_up_is_told_of_with_its_last_words(scratch: Path) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as name, Children(Path(name)) as children:
        (Path(name) / "b.sock").mkdir()
        with pytest.raises(StageError, match=r"(?s)node b ended by itself, exit code .*last words:\n.*b\.sock"):
            nodes.start_pair(children, Path(name), lambda _: None)
