"""The example of locks, run by several at one time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ipcd

LEDGER = str(Path(__file__).parents[2] / "client" / "examples" / "lock" / "ledger.py")


def test_no_entry_is_lost(ipcd_node: ipcd.Embedded, tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    running = [
        subprocess.Popen([sys.executable, LEDGER, str(file), str(amount)], stdout=subprocess.PIPE, text=True)
        for amount in (1, 10, 100, 1000)
    ]
    printed = [int(process.communicate(timeout=30)[0]) for process in running]
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert entries[-1]["balance"] == max(printed) == 1111
    assert sorted(printed) == [entry["balance"] for entry in entries]
    tokens = [entry["token"] for entry in entries]
    assert tokens == sorted(set(tokens))
