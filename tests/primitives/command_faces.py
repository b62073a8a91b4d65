"""Commands as tests offer and run them: from a thread or from a loop, on every road."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipcd_client
import ipcd_client.aio
from integration.daemons import Daemon, eventually
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Road

Offers = Callable[..., str]


def alive(pid: int) -> bool:
    """Whether it runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> None:
    eventually(lambda: not alive(pid), f"process {pid} is gone")


@contextlib.contextmanager
def offering(road: Road) -> Iterator[Offers]:
    """Offers commands, by their names, programs and what `serve` takes, until its end."""
    with contextlib.ExitStack() as stack:

        def offered(name: str, *program: str, **keywords: Any) -> str:
            text = road.name(name)
            server = ipcd_client.command(text.partition("@")[0], node=road.home.socket).serve(
                program, **{"grace": 0.3, **keywords}
            )
            stack.callback(server.stop)
            seen_from(road.front, text)
            return text

        yield offered


def seen_from(daemon: Daemon, text: str) -> None:
    """Waits until a node knows of it."""
    with ipcd_client.command(text, node=daemon.socket) as command:

        def known() -> bool:
            try:
                return bool(command.describe().name)
            except CallFailed:
                return False

        eventually(known, f"{text} is known at {daemon.node}")


class Face:
    """Runs commands from a thread or from a loop."""

    def __init__(self, kind: str, road: Road) -> None:
        self._kind = kind
        self._road = road
        # One loop for all runs: what grpc.aio has under way when a loop is closed, it takes up on the next one, where
        # that fails, and is kept for ever.
        self._runner = asyncio.Runner()
        self._thread = threading.get_ident()

    def run(self, name: str, *args: str, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
        """To the end."""
        if self._kind == "sync":
            with ipcd_client.command(name, **self._road.keywords) as command:
                return command.run(args, **keywords)
        run = self._runner.run if threading.get_ident() == self._thread else asyncio.run
        return run(self._loop_run(name, args, keywords))

    def close(self) -> None:
        """Ends the loop."""
        self._runner.close()

    async def _loop_run(self, name: str, args: Any, keywords: Any) -> subprocess.CompletedProcess[bytes]:
        given = self._road.loop_keywords()
        try:
            async with ipcd_client.aio.command(name, **given) as command:
                return await command.run(args, **keywords)
        finally:
            if "channel" in given:
                await given["channel"].close()


@contextlib.asynccontextmanager
async def loop_command(road: Road, name: str) -> Any:
    given = road.loop_keywords()
    async with ipcd_client.aio.command(name, **given) as command:
        yield command
    if "channel" in given:
        await given["channel"].close()
