"""Real daemons and servers as processes, ended by their id."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LONG = 20.0  # seconds: far more than anything here takes

SERVER = """
import sys, signal, threading
import grpc, ipcd_client
sys.path[:0] = [sys.argv[1]]
from conformance.echo import Echo
server = ipcd_client.server(handlers=(Echo(),), name=sys.argv[2], node=sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
server.start()
print("ready", flush=True)
server.wait_for_termination()
"""

TESTS = str(Path(__file__).parents[1])


def eventually(condition: Callable[[], object], what: str, limit: float = LONG) -> None:
    """Until `condition()` is true."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(0.02)


def listens(path: str) -> bool:
    """Whether somebody does. Who binds a socket has its file before that."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


class Processes:
    """Started here, ended here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[subprocess.Popen[str]] = []

    def daemon(self, node: str, *arguments: str, within: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """`ipcd run`, once it is ready. `within`: the command that runs it."""
        path = self.socket(node)
        with contextlib.suppress(FileNotFoundError):
            # What a killed daemon left: its successor takes it over, but here it would look like readiness.
            Path(path).unlink()
        command = ("-m", "ipcd", "run", "--node", node, "--socket", path, "--no-discovery", *arguments)
        process = self._start(*command, within=within)
        eventually(lambda: listens(path) or process.poll() is not None, f"daemon {node} listens")
        assert process.poll() is None, f"daemon {node} ended with {process.returncode}"
        return process

    def server(self, node: str, name: str) -> subprocess.Popen[str]:
        """A process that serves Echo, once it is registered."""
        return self.ready(name, "-c", SERVER, TESTS, name, self.socket(node))

    def aio_server(self, node: str, name: str) -> subprocess.Popen[str]:
        """The same on an event loop: `aio_server.py`."""
        return self.ready(name, f"{TESTS}/sdk/aio_server.py", name, self.socket(node))

    def ready(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A process of these arguments for Python, once it has said that it is ready."""
        process = self._start(*command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"server {name} did not start"
        return process

    def socket(self, node: str) -> str:
        """Path of a daemon's socket."""
        return str(self.folder / f"{node}.sock")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, and wait."""
        process.send_signal(signal.SIGKILL)
        process.wait(LONG)

    def _start(self, *command: str, stdout: int | None = None, within: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen([*within, sys.executable, *command], stdout=stdout, text=True)
        self._all.append(process)
        return process

    def end(self) -> None:
        """All of them."""
        for process in reversed(self._all):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._all:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill(process)
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """For one test."""
    all_of_them = Processes(folder)
    try:
        yield all_of_them
    finally:
        all_of_them.end()
