"""Colours, and completion in shells."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.daemons import LONG, Daemon
from integration.ipcctl.runs import CTL, LAB, World, ctl, pair


def on_terminal(node: Daemon, *arguments: str, **environment: str) -> str:
    """What it writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        environment = {"TERM": "xterm-256color", "COLUMNS": "100"} | environment
        clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
        command = [*CTL, "-s", node.socket, *arguments]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean | environment)
        os.close(theirs)
        said = b""
        # The terminal ends with an I/O error once nobody has it open.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                said += data
        assert process.wait(LONG) == 0
        return said.decode()
    finally:
        os.close(ours)


def test_colours_are_for_terminals(world: World) -> None:
    a, b, _ = pair(world)
    del a
    assert "\x1b[32mlinked" in on_terminal(b, "nodes")
    assert "\x1b[32m" not in on_terminal(b, "nodes", NO_COLOR="1")
    assert "\x1b" not in on_terminal(b, "nodes", TERM="dumb")
    assert "\x1b" not in ctl("nodes", node=b).out
    assert "\x1b" not in ctl("nodes", node=b, FORCE_COLOR="1").out
    assert json.loads(on_terminal(b, "nodes", "-o", "json"))


SHELLS: list[tuple[str, Callable[[str], list[str]]]] = [
    ("bash", lambda script: ["bash", "-n", script]),
    ("zsh", lambda script: ["zsh", "-n", script]),
    ("fish", lambda script: ["fish", "--no-execute", script]),
]


@pytest.mark.parametrize(("shell", "check"), SHELLS, ids=[shell for shell, _ in SHELLS])
def test_completion_scripts(shell: str, check: Callable[[str], list[str]], tmp_path: Path) -> None:
    done = ctl("completion", shell)
    assert done.code == 0
    assert f"_IPCCTL_COMPLETE={shell}_complete" in done.out
    script = tmp_path / "script"
    script.write_text(done.out)
    try:
        assert subprocess.run(check(str(script)), capture_output=True, timeout=LONG).returncode == 0
    except FileNotFoundError:
        pytest.skip(f"there is no {shell} here to check the script's syntax with")


def test_completion_knows_commands_services_and_nodes(world: World) -> None:
    node = world.node()
    world.serve(node)

    def completed(*words: str, socket: str = node.socket) -> list[str]:
        done = ctl(
            IPCD_SOCKET=socket,
            _IPCCTL_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(["ipcctl", *words]),
            COMP_CWORD=str(len(words)),
        )
        assert done.err == ""
        return [line.partition(",")[2] for line in done.out.split()]

    assert completed("no") == ["nodes"]
    assert completed("explain", "lab") == [LAB]
    assert completed("explain", LAB, "--node", "a") == ["a"]
    assert completed("explain", "x") == []
    # Where there is no daemon, there is nothing to complete, and no word about it.
    assert completed("explain", "lab", socket="/nonexistent") == []
