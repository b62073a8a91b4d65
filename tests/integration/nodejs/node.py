"""Programs in JavaScript, with gRPC's own packages from npm."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Where the scripts find the .proto files; it is what they get as $PROTO.
PROTO = HERE.parents[2] / "proto"
INSTALL = 180.0  # seconds
LONG = 20.0  # seconds: far more than it takes a program to end

# npm's codes for a registry that cannot be reached. Anything else that goes wrong is a failure, not a reason to skip.
_UNREACHABLE = (
    *("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"),
    *("ENOTCACHED", "ERR_SOCKET_TIMEOUT", "E401", "E403", "E407", "E502", "E503", "E504"),
)


class Node:
    """Node.js with the packages of package.json."""

    def __init__(self, modules: Path, program: str) -> None:
        self._modules = modules
        self._program = program

    @contextlib.contextmanager
    def running(self, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A script of this directory as a process: its input and output are pipes of lines, its errors go where the
        test's do. It is ended with SIGTERM where it does not end by itself."""
        process = subprocess.Popen(
            [self._program, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_PATH": str(self._modules), "PROTO": str(PROTO)},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=LONG)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise


def install(folder: Path) -> Node:
    """Puts the packages into `folder`. Skips the test, saying why, where there is no Node.js or no registry."""
    programs = {name: shutil.which(name) for name in ("node", "npm")}
    node, npm = programs["node"], programs["npm"]
    if node is None or npm is None:
        pytest.skip(f"no {' and no '.join(name for name, path in programs.items() if path is None)} on PATH")
    shutil.copy(HERE / "package.json", folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"]
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL
    )
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
        if any(code in line for line in said for code in _UNREACHABLE):
            pytest.skip(f"npm's registry cannot be reached: {said[0]}")
        pytest.fail(f"npm install ended with {result.returncode}:\n{result.stderr}")
    return Node(folder / "node_modules", node)
