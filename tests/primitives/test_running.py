"""`ipcctl lock run` and `ipcctl sem run`: a program runs while something is held, and does not go on without it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, daemons, eventually
from integration.ipcctl.runs import ctl, running
from primitives.roads import Cluster

# Says that it is up, and ends with 7 at SIGTERM, or not at all.
POLITE = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"


class Kind(NamedTuple):
    """`run`: the command; `lose`: the one that takes away what it holds; `free` takes and releases that."""

    run: tuple[str, ...]
    lose: tuple[str, ...]
    lost: str
    free: Callable[[str, Daemon], None]


def _free_lock(name: str, node: Daemon) -> None:
    ipcd_client.lock(name, node=node.socket).acquire(LONG).release()


def _free_semaphore(name: str, node: Daemon) -> None:
    with ipcd_client.semaphore(name, node=node.socket) as one:
        one.acquire(wait=LONG)


KINDS = {
    "lock": Kind(("lock", "run"), ("lock", "rm", "--force"), "was removed", _free_lock),
    "semaphore": Kind(
        ("sem", "run", "--value", "1"), ("sem", "rm"), "nothing is held of the semaphore", _free_semaphore
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@contextmanager
def up(kind: Kind, name: str, node: Daemon, *command: str, grace: float = 5.0) -> Iterator[subprocess.Popen[str]]:
    """Running it, once COMMAND says that it is up."""
    with running(*kind.run, "--grace", str(grace), name, "--", *command, node=node) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process


def test_it_ends_when_that_is_lost(cluster: Cluster, kind: Kind) -> None:
    a, b = cluster
    # With SIGTERM, and with SIGKILL who does not care.
    programs: list[tuple[str, float, int]] = [(POLITE, LONG, 7), (STUBBORN, 0.1, 128 + signal.SIGKILL)]
    for program, grace, code in programs:
        with up(kind, "lost@b", a, sys.executable, "-c", program, grace=grace) as process:
            assert ctl(*kind.lose, "lost@b", node=b).code == 0
            assert process.wait(LONG) == code
            assert process.stderr is not None
            told = process.stderr.read()
            assert "lost, and the program is ended: " in told
            assert kind.lost in told


def test_its_home_is_killed(kind: Kind) -> None:
    with daemons() as nodes:
        a = nodes.run("a")
        with up(kind, "x", a, sys.executable, "-c", POLITE, grace=LONG) as process:
            a.kill()
            assert process.wait(LONG) == 7


def test_signals_go_on_to_it(cluster: Cluster, kind: Kind) -> None:
    a = cluster.front
    for number in (signal.SIGTERM, signal.SIGHUP):
        with up(kind, "signals@a", a, "sh", "-c", "echo up; exec sleep 100") as process:
            process.send_signal(number)
            assert process.wait(LONG) == 128 + number
        kind.free("signals@a", a)


def test_it_does_not_outlive_ipcctl(cluster: Cluster, kind: Kind, tmp_path: Path) -> None:
    """Which is killed, and cannot end it."""
    a = cluster.front
    file = tmp_path / "pid"
    with up(kind, "killed@a", a, "sh", "-c", f"echo $$ > {file}; echo up; exec sleep 100") as process:
        process.kill()
        process.wait(LONG)
        pid = int(file.read_text())
        eventually(lambda: _gone(pid), "the program has ended")
    kind.free("killed@a", a)


def test_it_cannot_be_run(cluster: Cluster, kind: Kind) -> None:
    a = cluster.front
    for command, code in (("/nowhere/there", 127), ("/", 126)):
        assert ctl(*kind.run, "cannot@a", "--", command, node=a).code == code
        kind.free("cannot@a", a)


def _gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
