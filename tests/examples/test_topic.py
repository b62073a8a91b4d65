"""The example of topics, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ipcd

TOPIC = Path(__file__).parents[2] / "client" / "examples" / "topic"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "prices.py", *arguments], cwd=TOPIC, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_last_price_of_each(ipcd_node: ipcd.Embedded) -> None:
    assert ipcd_node.socket
    assert run("publish") == ""
    assert run("listen") == "prices.us.wheat 190\nprices.eu.wheat 212\n"
    assert run("listen", "prices.eu.*") == "prices.eu.wheat 212\n"
