"""What the named things are measured on: two linked nodes, and the servers of the others, all on loopback."""

from __future__ import annotations

import contextlib
import multiprocessing
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from benchmarks import nodes
from ipcd.demo.processes import Children

PATIENCE: Final = 120.0  # seconds for one part of one measurement
_SPAWN: Final = multiprocessing.get_context("spawn")


class Missing(Exception):
    """A peer is not to be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything is. `a` and `b`: sockets of the daemons. `redis`, `nats`: ports; 0 where there is no server."""

    folder: Path
    a: str
    b: str
    redis: int
    nats: int

    def needs(self, server: str) -> int:
        """The port of a server.

        Raises:
            Missing: it is not installed.
        """
        port: int = getattr(self, server)
        if not port:
            raise Missing(f"{server}-server is not installed")
        return port


def free_port() -> int:
    """One of loopback that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Everything started, and ended at the end."""
    with tempfile.TemporaryDirectory(prefix="ipcd-n-") as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        children = stack.enter_context(Children(folder))
        a = nodes.start(children, folder, "a", more=["--state-dir", f"{text}/state-a"])
        b = nodes.start(children, folder, "b", a, more=["--state-dir", f"{text}/state-b"])
        redis = _server(stack, "redis-server", f"--port {{}} --bind 127.0.0.1 --save '' --dir {text}")
        nats = _server(stack, "nats-server", f"-a 127.0.0.1 -p {{}} -js -sd {text}/nats")
        yield Stage(folder, str(a.socket), str(b.socket), redis, nats)


def _server(stack: contextlib.ExitStack, program: str, arguments: str) -> int:
    """Starts it, with its port in the place of {}, and waits until it listens: the port. 0 where it is not
    installed."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        return 0
    port = free_port()
    process = subprocess.Popen(
        [path, *shlex.split(arguments.format(port))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return port
        if time.monotonic() > until or process.poll() is not None:
            raise SystemExit(f"{program} did not start")
        time.sleep(0.02)


# -- processes ---------------------------------------------------------------------------------------

Part = Callable[..., Any]


class Cue:
    """What a part is given first: it says `ready`, and goes on when all of them are."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        self._pipe.send("ready")
        self._pipe.recv()


def _play(pipe: Connection, part: Part, arguments: Sequence[Any]) -> None:
    try:
        pipe.send(("done", part(Cue(pipe), *arguments)))
    except Missing as missing:
        pipe.send(("missing", str(missing)))
    except BaseException as error:
        pipe.send(("failed", repr(error)))
        raise


def play(*parts: tuple[Any, ...]) -> list[Any]:
    """Each part, a function and its arguments, in a process of its own; what they return.

    Raises:
        Missing: something that one of them needs is not there.
    """
    pipes: list[Connection] = []
    processes = []
    try:
        for part, *arguments in parts:
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_play, args=(theirs, part, arguments), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            _said(pipe, "ready")
        for pipe in pipes:
            pipe.send("go")
        return [_said(pipe, "done") for pipe in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()


def _said(pipe: Connection, what: str) -> Any:
    if not pipe.poll(PATIENCE):
        raise SystemExit(f"a part of a measurement has not said {what!r} within {PATIENCE:g} s")
    said = pipe.recv()
    if said == what:
        return None
    kind, value = said
    if kind == "missing":
        raise Missing(value)
    if kind != what:
        raise SystemExit(f"a part of a measurement {kind}: {value}")
    return value
