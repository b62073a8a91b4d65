"""The example of pipes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ipcd_client

import ipcd

UPPER = Path(__file__).parents[2] / "client" / "examples" / "pipe" / "upper.py"


def test_it_shouts(ipcd_node: ipcd.Embedded) -> None:
    with subprocess.Popen([sys.executable, UPPER]) as process, ThreadPoolExecutor(1) as aside:
        opening = aside.submit(ipcd_client.pipe("words", node=ipcd_node.socket).open_write, wait=20)
        words = opening.result()
        with ipcd_client.pipe("shouted", node=ipcd_node.socket).open_read(wait=20) as shouted:
            words.write(b"hello\nthere\n")
            words.close()
            assert shouted.read() == b"HELLO\nTHERE\n"
        assert process.wait(20) == 0
