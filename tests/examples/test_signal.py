"""The example of signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ipcd

FOLDER = Path(__file__).parents[2] / "client" / "examples" / "signal"


def test_workers_are_told(ipcd_node: ipcd.Embedded) -> None:
    command = [sys.executable, "worker.py"]
    with subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        try:
            assert worker.stdout.readline() == f"working as process {worker.pid}\n"
            done = subprocess.run(
                [sys.executable, "supervisor.py", str(worker.pid)],
                cwd=FOLDER,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert (done.returncode, done.stderr) == (0, "")
            ended = f"process {worker.pid} on node {ipcd_node.node} ended with exit code 0"
            assert done.stdout == f"1 told on {ipcd_node.node}\n{ended}\n"
            lines = worker.stdout.read().splitlines()
            assert lines[0].startswith("reload 1, as process ")
            assert lines[1] == "stopped"
            assert worker.wait(10) == 0
        finally:
            worker.kill()
