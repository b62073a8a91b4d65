"""`ipcctl expose` as a process, and the gRPC server behind it as another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from conformance import interop
from integration.daemons import LONG, Daemon

CTL = [sys.executable, "-m", "ipcd_client.cli"]
TESTS = Path(__file__).parents[1]
PROTO = TESTS / "conformance" / "proto" / "interop" / "v1" / "interop.proto"


@contextlib.contextmanager
def python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program of this directory, with pipes of lines. Killed at the end."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, str(TESTS / "integration" / program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def grpcio_server(address: str, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """exposed_server.py, whose first line is still to be read."""
    return python("exposed_server.py", *options, address)


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Writes it a line."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")


class Exposing:
    """One process, whose lines are JSON. A context manager: killed at the end, if it has not ended."""

    def __init__(self, node: Daemon, to: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*CTL, "-s", node.socket, "-o", "json", "expose", "--to", to, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with self.process:
            self.process.kill()

    def change(self) -> dict[str, Any]:
        """The next change of state."""
        line = line_of(self.process)
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"it ended: {self.process.stderr.read()}")
        change: dict[str, Any] = json.loads(line)
        return change

    def serves(self, service: str = interop.SERVICE, words: str = "") -> None:
        """The next change is that the service is registered."""
        self._next("serving", service, words)

    def serves_not(self, service: str = interop.SERVICE, words: str = "") -> None:
        """The next change is that it is not any more."""
        self._next("not serving", service, words)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(LONG)

    def _next(self, state: str, service: str, words: str) -> None:
        change = self.change()
        assert (change["service"], change["state"]) == (service, state), change
        assert words in change["why"]
