"""`ipcctl` as a process, with real daemons and servers: what its tests run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.daemons import LONG, Daemon, Daemons, eventually

CTL = [sys.executable, "-m", "ipcd_client.cli"]
SERVER = str(Path(__file__).parents[1] / "lab_server.py")
LAB = "lab.v1.Lab"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a run."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """Standard error as one JSON value."""
        return json.loads(self.err)


def ctl(*arguments: str, node: Daemon | None = None, given: str = "", **environment: str) -> Done:
    """Runs it to its end."""
    where = ["-s", node.socket] if node else []
    done = subprocess.run(
        [*CTL, *where, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class World:
    """Daemons, and servers of theirs."""

    def __init__(self, cluster: Daemons) -> None:
        self._cluster = cluster
        self._servers: list[subprocess.Popen[bytes]] = []

    def node(self, name: str = "a", *arguments: str) -> Daemon:
        """A daemon."""
        return self._cluster.run(name, *arguments)

    def serve(self, node: Daemon, name: str = "lab") -> subprocess.Popen[bytes]:
        """A server of lab.v1.Lab, once the daemon knows it."""
        return self.spawn(node, sys.executable, SERVER, node.socket, name)

    def spawn(self, node: Daemon, *command: str) -> subprocess.Popen[bytes]:
        """Any process that registers a server, once it has."""
        before = len(node.events("server registered"))
        process = subprocess.Popen(command)
        self._servers.append(process)
        eventually(lambda: len(node.events("server registered")) > before, "the server is registered")
        return process

    def end(self) -> None:
        """Ends the servers."""
        for process in self._servers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(LONG)


@contextlib.contextmanager
def running(*arguments: str, node: Daemon, **keywords: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs it meanwhile, with pipes to its three streams."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    with subprocess.Popen([*CTL, "-s", node.socket, *arguments], text=True, bufsize=1, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def pair(world: World) -> tuple[Daemon, Daemon, subprocess.Popen[bytes]]:
    """Two nodes that know each other, with a server named "lab" on a."""
    a = world.node("a")
    server = world.serve(a)
    b = world.node("b", "--peer", a.listen)
    eventually(lambda: LAB in ctl("ls", LAB, node=b).out, "node b knows the server on a")
    return a, b, server
