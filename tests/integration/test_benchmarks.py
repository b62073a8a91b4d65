"""The benchmarks run and tell what they measured; their figures are for people to judge, on a quiet machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "unary_latency.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_unary_latency(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    short = ("--rounds", "1", "--seconds", "0.2")
    # No call through grpcio is a thousand million times slower: what is required and not met must be told.
    done = run(*short, "--size", "64", "--size", "4096", "--json", str(file), "--require", "unix=1e9")
    assert done.returncode == 1, done.stderr
    assert re.search(r"unix: .*, at most 1/1e\+09 is required", done.stderr.splitlines()[-1])
    told = json.loads(file.read_text())
    assert [(row["size"], row["transport"]) for row in told["rows"]] == [
        (size, transport) for size in (64, 4096) for transport in ("unix", "tcp", "grpcio unix", "grpcio tcp")
    ]
    beside = {row["transport"]: row["beside"] for row in told["rows"]}
    assert beside == {"unix": "grpcio unix", "tcp": "grpcio tcp", "grpcio unix": None, "grpcio tcp": None}
    assert all(row["figures"]["calls"] >= 1 for row in told["rows"])
    assert all((row["p50_ratio"] or 0) > 0 for row in told["rows"] if row["beside"])
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 8
    assert "- Python: " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--require", "shm"), ("--require", "x=1"), ("--require", "unix=0"), ("--rounds", "0"), ("--size", "-1")],
)
def test_unary_latency_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
