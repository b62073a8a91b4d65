"""Where there is no daemon, and what else can go wrong with any command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from integration.daemons import LONG, Daemons
from integration.ipcctl.runs import CTL, LAB, Done, World, ctl, running


@pytest.mark.parametrize(
    "arguments", [["ls"], ["nodes"], ["explain", LAB], ["call", f"{LAB}/Digest", "{}"], ["ping", LAB]], ids=" ".join
)
def test_no_daemon(arguments: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    text = f"no ipcd daemon at {path} (no such file); start one with: ipcd run --socket {path}"
    assert ctl(*arguments, "-s", path) == Done(3, "", f"ipcctl: {text}\n")
    done = ctl(*arguments, "-o", "json", IPCD_SOCKET=path)
    assert (done.code, done.out) == (3, "")
    assert done.error == {
        "error": text,
        "code": "NO_DAEMON",
        "exit": 3,
        "socket": path,
        "start": f"ipcd run --socket {path}",
    }


def test_the_default_socket(tmp_path: Path) -> None:
    done = ctl("ls", "-o", "json", IPCD_SOCKET="", XDG_RUNTIME_DIR=str(tmp_path))
    assert done.error["socket"] == str(tmp_path / "ipcd" / "ipcd.sock")
    assert ctl("ls", "-o", "json", IPCD_SOCKET="", XDG_RUNTIME_DIR="").error["socket"] == "/run/ipcd/ipcd.sock"


def test_a_daemon_that_does_not_answer(cluster: Daemons) -> None:
    path = str(cluster.folder / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        begin = time.monotonic()
        done = ctl("ls", "-o", "json", "-s", path, "--timeout", "0.3")
        assert time.monotonic() - begin < 5
    assert (done.code, done.error["code"]) == (4, "DEADLINE_EXCEEDED")
    assert path in done.error["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_daemon(world: World) -> None:
    node = world.node()
    code = (
        "import os, sys, ipcd_client.cli.backend, ipcd_client.cli.program as program\n"
        "os.seteuid(65534)\n"
        "sys.exit(program.run(['ls', '-o', 'json', '-s', sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, node.socket], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 4
    error = json.loads(done.stderr)
    assert error["code"] == "PERMISSION_DENIED"
    assert error["details"] == f"uid 65534 may not open {node.socket}: it belongs to another user"


@pytest.mark.parametrize("format_", ["text", "json"])
def test_interrupted(world: World, format_: str) -> None:
    node = world.node()
    world.serve(node)
    with running("call", f"{LAB}/Session", "-", "-o", format_, node=node) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write('{"line": "stat os.py"}\n')
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        error = process.stderr.read()
    if format_ == "json":
        assert json.loads(error) == {"error": "interrupted", "code": "INTERRUPTED", "exit": 130}
    else:
        assert error == "ipcctl: interrupted\n"


def test_a_reader_that_has_seen_enough(world: World) -> None:
    node = world.node()
    world.serve(node)
    search = ("call", f"{LAB}/Search", '{"pattern": "import", "limit": 10000}', "-o", "json")
    with running(*search, node=node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.wait(LONG) == 0
        assert process.stderr.read() == ""


def test_help_into_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*CTL, "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=LONG)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nowhere_to_write(world: World) -> None:
    node = world.node()
    with Path("/dev/full").open("w") as full, running("nodes", node=node, stdout=full) as process:
        assert process.wait(LONG) == 4
        assert process.stderr is not None
        assert process.stderr.read() == "ipcctl: cannot write: No space left on device\n"
