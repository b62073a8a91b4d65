"""The heap is kept while large messages come, given back when they stop, and left alone where somebody says so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Takes and gives back 16 MiB of heap below something that stays, and says what of it was kept, in bytes, before and
# after the tidying.
PROGRAM = """
import threading, time
from ipcd_client.wire import tidy

class Quiet:
    def tidy(self):
        return False

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

one = Quiet()
tidy.large(one)
before = resident()
blocks = [b"x" * (1 << 20) for _ in range(16)]
del blocks
kept = resident() - before
while any(thread.name == "ipcd-tidy" for thread in threading.enumerate()):
    time.sleep(0.01)
print(kept, resident() - before)
"""
MOST_OF_IT = 12 << 20
LITTLE = 4 << 20


def run(**environment: str) -> tuple[int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "IPCD_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True, timeout=30, check=True
    )
    kept, left = map(int, done.stdout.split())
    return kept, left


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")


def test_kept_and_given_back() -> None:
    kept, left = run()
    assert kept > MOST_OF_IT
    assert left < LITTLE


@pytest.mark.parametrize("environment", [{"IPCD_KEEP_HEAP": "0"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_left_alone(environment: dict[str, str]) -> None:
    kept, _ = run(**environment)
    assert kept < LITTLE
