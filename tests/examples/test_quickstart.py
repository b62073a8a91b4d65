"""The quickstart example, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipcd

QUICKSTART = Path(__file__).parents[2] / "client" / "examples" / "quickstart"


@pytest.fixture
def server(ipcd_node: ipcd.Embedded) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "server.py"], cwd=QUICKSTART, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving hello.v1.Greeter; Ctrl-C ends it\n"
        try:
            yield process
        finally:
            process.kill()


def call(*names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "client.py", *names], cwd=QUICKSTART, capture_output=True, text=True, timeout=30, check=False
    )


def test_it_greets(server: subprocess.Popen[str]) -> None:
    done = call("Ada", "Grace")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Hello, Ada! (from process {server.pid})\nHello, Ada!\nHello, Grace!\n"


def test_an_error_is_told(server: subprocess.Popen[str]) -> None:
    done = call("")
    assert done.returncode == 1
    assert "INVALID_ARGUMENT" in done.stderr
    assert "nobody to greet" in done.stderr


def test_ctrl_c_ends_the_server_without_a_traceback(server: subprocess.Popen[str]) -> None:
    server.send_signal(2)
    assert server.wait(10) == 0


def test_without_a_server_the_error_names_the_service(ipcd_node: ipcd.Embedded) -> None:
    assert os.environ["IPCD_SOCKET"] == ipcd_node.socket
    done = call("Ada")
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert "hello.v1.Greeter" in done.stderr
