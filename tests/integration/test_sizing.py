"""`python -m benchmarks.sizing` measures what docs/operations.md says of memory and descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]  # where benchmarks/ lies: it is no part of what is installed
DESCRIPTORS_OF_SHM = 8


def test_sizing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sizing", "--count", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()[1:]}
    assert len(rows) == 10
    for name, (memory, descriptors) in rows.items():
        if "for each" not in name:
            assert float(memory) > 1000
        elif "shm" in name:
            # What `ipcctl doctor` counts with.
            assert 1 < round(float(descriptors)) <= DESCRIPTORS_OF_SHM
        else:
            # A process may have one more open for the moment.
            assert round(float(descriptors)) == 1
