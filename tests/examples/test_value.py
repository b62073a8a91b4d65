"""The examples of values."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from integration.exposing import line_of

import ipcd

EXAMPLES = Path(__file__).parents[2] / "client" / "examples" / "value"


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, *arguments], cwd=EXAMPLES, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_another_one_leads_when_the_leader_is_killed(ipcd_node: ipcd.Embedded) -> None:
    with running("leader.py") as first:
        assert line_of(first) == "leading"
        with running("leader.py") as second:
            assert line_of(second).startswith(f"following pid {first.pid} on ")
            first.kill()
            assert line_of(second) == "leading"


def test_readers_see_the_table_change(ipcd_node: ipcd.Embedded) -> None:
    with running("table.py", "read") as reader:
        for count in ("100000", "10"):
            with running("table.py", "write", count) as writer:
                version = line_of(writer)
            assert version.startswith("version ")
            numbers = int(count)
            assert line_of(reader) == f"{version}: {count} numbers, sum {numbers * (numbers - 1) // 2}"
