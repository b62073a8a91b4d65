"""The example of queues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ipcd_client

import ipcd

WORKER = Path(__file__).parents[2] / "client" / "examples" / "queue" / "worker.py"


def test_a_worker_squares_and_buries(ipcd_node: ipcd.Embedded) -> None:
    with ipcd_client.queue("numbers", create=True, deliveries=3, dead_letters="numbers.dead") as numbers:
        numbers.send_many([b"3", b"four", b"5"])
        done = subprocess.run(
            [sys.executable, str(WORKER), "0.2"], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "9\n25\n"
        assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["try 1", "try 2", "try 3"]
        assert len(numbers.stat()) == 0
    with ipcd_client.queue("numbers.dead") as dead:
        assert dead.receive(timeout=0).data == b"four"
