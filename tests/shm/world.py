"""Daemon, server and caller, each a process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ipcd_client.testing.wire_tools import LIMIT
from sdk.processes import Processes

HERE = Path(__file__).parent


class Program:
    """`program.py`, which does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def do(self, *words: object) -> Any:
        """Its answer to a command."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class World:
    """One daemon, and programs of its node."""

    def __init__(self, daemons: Processes, daemon: subprocess.Popen[str], stack: contextlib.ExitStack) -> None:
        self.daemons = daemons
        self.daemon = daemon
        self._stack = stack

    @property
    def socket(self) -> str:
        """The daemon's."""
        return self.daemons.socket("a")

    def program(self, role: str, *faults: str, within: tuple[str, ...] = ()) -> Program:
        """Starts one. `within`: the command that runs it."""
        process = self._stack.enter_context(
            subprocess.Popen(
                [*within, sys.executable, str(HERE / "program.py"), role, self.socket, *faults],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        program = Program(process)
        self._stack.callback(self._end, process)
        program.do("close")
        return program

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(LIMIT)
        finally:
            process.kill()
        assert code == 0
