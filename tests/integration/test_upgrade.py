"""Daemons and servers are replaced while programs call without a pause."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from integration.daemons import LONG, Daemon, Daemons
from integration.ipcctl.runs import SERVER
from integration.manager import Manager, managing

CALLER = str(Path(__file__).with_name("caller.py"))
KINDS = ("kept", "new", "hasty", "aio")
TIMES = 2

# The callers take all the time that there is.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def manager(cluster: Daemons) -> Iterator[Manager]:
    with managing(cluster) as one:
        one.open_attach()
        one.open_listen()
        yield one


@contextlib.contextmanager
def serving(daemon: Daemon, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once the daemon knows it."""
    with subprocess.Popen([sys.executable, SERVER, daemon.socket, name]) as process:
        try:
            daemon.logged("server registered", f'"{name}"')
            yield process
        finally:
            process.kill()


class Callers:
    """Processes that call, each in its own way."""

    def __init__(self, socket: str, *kinds: str) -> None:
        self._all = {
            kind: subprocess.Popen(
                [sys.executable, CALLER, socket, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for kind in kinds
        }

    def __enter__(self) -> Self:
        for process in self._all.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all.values():
            process.kill()
            process.communicate(timeout=LONG)

    def results(self) -> dict[str, set[str]]:
        """What calls came to, for each way."""
        said = {kind: process.communicate("stop\n", timeout=LONG)[0] for kind, process in self._all.items()}
        return {kind: set(json.loads(text)) for kind, text in said.items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_call_fails_while_the_daemon_is_replaced(manager: Manager, number: int) -> None:
    daemon = manager.start().up()
    with serving(daemon, "one"), serving(daemon, "two"), Callers(daemon.socket, *KINDS) as callers:
        for _ in range(TIMES):
            daemon.stop(number)
            daemon = manager.start().up()
            for name in ("one", "two"):
                daemon.logged("server registered", f'"{name}"')
        assert callers.results() == {kind: {"ok"} for kind in KINDS}


def test_no_call_fails_while_servers_are_replaced(manager: Manager) -> None:
    daemon = manager.start().up()
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(serving(daemon, "0"))
        with Callers(daemon.socket, *KINDS) as callers:
            for each in range(1, 1 + TIMES):
                fresh = stack.enter_context(serving(daemon, str(each)))
                old.send_signal(signal.SIGTERM)
                assert old.wait(LONG) == 0
                old = fresh
            assert callers.results() == {kind: {"ok"} for kind in KINDS}
