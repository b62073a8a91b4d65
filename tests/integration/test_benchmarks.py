"""The benchmarks run and tell what they measured; their figures are for people to judge, on a quiet machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]  # where benchmarks/ lies: it is no part of what is installed

OURS, THEIRS, PLAIN = "ipcd-unix", "grpcio-unix", "pipe"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def measured(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    done = run("--quick", "--seconds", "0.02", "--out", str(tmp_path), *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads((tmp_path / "benchmarks.json").read_text())
    (only,) = told["runs"]
    assert not only["failures"]
    assert (tmp_path / "benchmarks.md").read_text().startswith("# Benchmarks")
    return told


@pytest.mark.parametrize(
    ("groups", "points"),
    [
        (("latency", "memory"), {"latency": 1, "memory": 2}),
        (("throughput", "streaming"), {"throughput": 6, "streaming": 4}),
        (("processes", "first-call", "callers"), {"processes": 2, "first-call": 1, "callers": 1}),
    ],
)
def test_every_group_tells_of_every_peer(tmp_path: Path, groups: tuple[str, ...], points: dict[str, int]) -> None:
    peers = (OURS, THEIRS)
    told = measured(
        tmp_path,
        *(word for group in groups for word in ("--only", group)),
        *(word for peer in peers for word in ("--peer", peer)),
        *("--size", "64"),
    )
    (only,) = told["runs"]
    for group, count in points.items():
        for peer in peers:
            found = [one for one in only["readings"] if one["group"] == group and one["peer"] == peer]
            assert len(found) == count, (group, peer)
            assert all(number >= 0 for one in found for name, number in one["values"].items() if name[-4:] == "_per_s")
    assert set(only["taken"]) == set(peers)


def test_idle(tmp_path: Path) -> None:
    told = measured(tmp_path, "--only", "idle", "--peer", OURS)
    assert [one["at"]["process"] for one in told["runs"][0]["readings"]] == [
        "daemon",
        "linked daemon",
        "server",
        "client",
    ]


def test_what_cannot_be_had_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A library that cannot be imported, whether it is installed or not.
    (tmp_path / "zmq.py").write_text("raise ImportError('broken on purpose')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = measured(tmp_path, "--only", "latency", "--peer", "pyzmq", "--peer", PLAIN, "--size", "0", "--size", "4096")
    (only,) = told["runs"]
    assert only["missing"] == {"pyzmq": "cannot be imported (broken on purpose)"}
    assert [(one["peer"], one["at"]) for one in only["readings"]] == [(PLAIN, {"size": 0}), (PLAIN, {"size": 4096})]
    assert "not available: cannot be imported (broken on purpose)" in (tmp_path / "benchmarks.md").read_text()
    # The same again, of the figures that are there now; none of those to reach is among them.
    again = run("--render", str(tmp_path / "benchmarks.json"), "--check")
    assert again.returncode == 1
    assert "| multiprocessing |" in again.stdout
    assert "benchmarks: not available: unary 64 B, shm" in again.stderr


def test_interrupted() -> None:
    with subprocess.Popen(
        command("--only", "latency", "--peer", PLAIN, "--peer", THEIRS, "--seconds", "30"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("latency:"):
                break
        time.sleep(0.2)  # into a turn
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told.strip() == "benchmarks: interrupted; what was started has been ended"


def test_list() -> None:
    done = run("--list")
    assert done.returncode == 0
    assert f"  {OURS}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--peer", "x"),
        ("--only", "x"),
        ("--rounds", "0"),
        ("--size", "-1"),
        ("--seconds", "0"),
        ("--runs", "0"),
        ("x",),
    ],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_many_nodes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cluster", "--quick", "--nodes", "4", "--nodes", "8", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "cluster-scaling.json").read_text())
    assert list(told["nodes"]) == ["4", "8"]
    assert all(number >= 0 for one in told["nodes"].values() for number in one.values())
    assert told["nodes"]["8"]["change_bytes"] > told["nodes"]["4"]["change_bytes"]
    text = (tmp_path / "cluster-scaling.md").read_text()
    assert text.startswith("# How a cluster scales")
    # Of what seven others are told instead of three, and of what each of them is.
    assert "| grows with nodes to the power of | 1.22 | 0.00 |" in text
