"""The example of semaphores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ipcd_client

import ipcd

LICENCES = Path(__file__).parents[2] / "client" / "examples" / "semaphore" / "licences.py"


def test_three_have_one_and_the_fourth_waits(ipcd_node: ipcd.Embedded) -> None:
    command = [sys.executable, str(LICENCES), "60"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert f"process {process.pid} has a licence" in process.stdout.readline()
        with ipcd_client.semaphore("licences") as licences:
            assert licences.get_value() == 0
            processes[0].kill()
            # Given back at once.
            assert licences.acquire(wait=20)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    done = subprocess.run([sys.executable, str(LICENCES), "0"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 left" in done.stdout
