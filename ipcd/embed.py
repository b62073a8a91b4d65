"""A private node inside this process, for scripts and tests: no service to install first."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from ipcd.config import Config

# Seconds to start, and to stop.
PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running node. `socket` is what `node=` of channels and servers takes; `listen` is HOST:PORT."""

    node: str
    socket: str
    listen: str


@contextlib.contextmanager
def embedded(
    *,
    node: str | None = None,
    listen: str | None = None,
    peers: Sequence[str] = (),
    discovery: bool = False,
    cluster: str | None = None,
) -> Iterator[Embedded]:
    """Runs a node on a temporary socket for as long as the `with` block lasts, in a thread of its own.

    >>> with ipcd.embedded() as node:
    ...     channel = ipcd_client.channel(node=node.socket)

    Args:
        node: its name. Default: one that no other node has.
        listen: HOST:PORT for other nodes; loopback only. Default: any free port of 127.0.0.1.
        peers: HOST:PORT of other nodes.
        discovery: look for other nodes with zeroconf, and be found.
        cluster: nodes of other clusters are left alone.

    Raises:
        ConfigError: an argument is wrong, or the node cannot start.
    """
    from ipcd import config

    given: dict[str, object] = {"node": node, "listen": listen, "cluster": cluster}
    flags = {key: value for key, value in given.items() if value is not None}
    directory = tempfile.mkdtemp(prefix="ipcd-")
    try:
        flags.setdefault("node", f"embedded-{os.getpid()}-{Path(directory).name[len('ipcd-') :]}")
        flags |= {"socket": f"{directory}/ipcd.sock", "peers": tuple(peers), "discovery": discovery}
        # Not of this process's environment: that is meant for another node.
        settings = config.load(flags, environ={})
        runner = _Runner(settings)
        runner.start()
        try:
            yield Embedded(settings.node, settings.socket, runner.listen)
        finally:
            runner.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Runner:
    """The node's loop and thread."""

    def __init__(self, settings: Config) -> None:
        self.listen = ""
        self._settings = settings
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="ipcd-node", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._up.wait(PATIENCE):
            self.stop()
            raise TimeoutError(f"the node did not start within {PATIENCE:g} s")
        if self._error is not None:
            self._thread.join(PATIENCE)
            raise self._error

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None:
            # The loop is closed already where the node failed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise TimeoutError(f"the node did not stop within {PATIENCE:g} s")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        import asyncio

        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever started the node
            self._error = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        import asyncio

        from ipcd.node import Node

        node = Node(self._settings)
        await node.start()
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.listen = node.listen
        self._up.set()
        await self._stop.wait()
        await node.stop()
