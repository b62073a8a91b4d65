"""The example of commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ipcd

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "command"


def test_offered_and_run(ipcd_node: ipcd.Embedded) -> None:
    with subprocess.Popen([sys.executable, "offer.py"], cwd=EXAMPLE, stdout=subprocess.PIPE, text=True) as offerer:
        assert offerer.stdout is not None
        assert offerer.stdout.readline() == "offering lines; Ctrl-C ends it\n"
        try:
            for program, said in (
                ("run.py", "in one go: 2\nas it comes: 1000 exit code 0\n"),
                ("run_aio.py", "1 10 100\n"),
            ):
                done = subprocess.run(
                    [sys.executable, program], cwd=EXAMPLE, capture_output=True, text=True, timeout=30, check=False
                )
                assert (done.returncode, done.stdout) == (0, said), done.stderr
            offerer.send_signal(2)
            assert offerer.wait(10) == 0
        finally:
            offerer.kill()
