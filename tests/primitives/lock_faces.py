"""The two faces of locks as one: the handles for event loops, driven from threads; and processes that hold one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipcd_client
import ipcd_client.aio
from integration.daemons import LONG, eventually
from primitives.roads import Road

FACES = ("sync", "aio")
HOLDER = str(Path(__file__).with_name("lock_holder.py"))


class Face:
    """Makes handles of one kind, whose methods all block. `keywords` as of Road."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._made: list[Any] = []
        self._channels: dict[str, Any] = {}
        if kind == "aio":
            self._thread.start()

    def lock(self, name: str, road: Road | None = None, **keywords: Any) -> Any:
        """`ipcd_client.lock`, or what it is of the loop."""
        if self.kind == "sync":
            return ipcd_client.lock(name, **(road.keywords if road else {}), **keywords)

        async def make() -> Any:
            if road is not None and road.kind not in self._channels:
                self._channels[road.kind] = road.loop_keywords()
            return ipcd_client.aio.lock(name, **(self._channels[road.kind] if road else {}), **keywords)

        made = Driven(self, self.run(make()))
        self._made.append(made)
        return made

    def run(self, coroutine: Any) -> Any:
        """On the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG)

    def close(self) -> None:
        """Ends what was made."""
        if self.kind == "aio":
            for made in self._made:
                made.close()
            for keywords in self._channels.values():
                if "channel" in keywords:
                    self.run(keywords.pop("channel").close())
            # Nothing of the test's is to keep grpc.aio's poller.
            self._made.clear()
            self.run(self._loop.shutdown_default_executor())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LONG)
        self._loop.close()


class Driven:
    """A handle, or what it gives."""

    def __init__(self, face: Face, real: Any) -> None:
        self._face = face
        self._real = real
        self._held: Any = None

    def __getattr__(self, name: str) -> Any:
        async def value() -> Any:
            return getattr(self._real, name)

        found = self._face.run(value())
        if name == "lost":
            return Lost(self._face, found)
        if not callable(found):
            return found

        def call(*args: Any, **keywords: Any) -> Any:
            async def go() -> Any:
                result = found(*args, **keywords)
                return await result if asyncio.iscoroutine(result) else result

            result = self._face.run(go())
            return Driven(self._face, result) if type(result).__name__ in {"Lock", "Held"} else result

        return call

    def __enter__(self) -> Any:
        # A task for all of it, as a program's would be.
        self._held = self.acquire() if type(self._real).__name__ == "Lock" else self
        return self._held

    def __exit__(self, *error: object) -> None:
        self._face.run(self._held._real.__aexit__(*error))


class Lost:
    """The event."""

    def __init__(self, face: Face, event: Any) -> None:
        self._face = face
        self._event = event

    def __bool__(self) -> bool:
        return bool(self._event)

    def wait(self, timeout: float) -> bool:
        """Of threading.Event."""

        async def wait() -> bool:
            async with asyncio.timeout(timeout):
                return bool(await self._event.wait())

        return bool(self._face.run(wait()))


@contextmanager
def in_thread(act: Any) -> Iterator[list[Any]]:
    """Runs it meanwhile; what it gives, or raises, is in the list at the end."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(act())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join(LONG)
        assert not thread.is_alive()


def waiters(lock: Any, count: int = 1) -> None:
    """Waits until so many wait for it."""
    eventually(lambda: lock.look().waiter_count == count, f"{count} wait")


class Holder:
    """lock_holder.py."""

    def __init__(self, socket: str, name: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HOLDER, socket, name, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def held(self) -> int:
        """The token."""
        word, token = self.line().split()
        assert word == "held"
        return int(token)

    def end(self) -> None:
        """As if nothing had been."""
        self.process.kill()
        self.process.communicate(timeout=LONG)


@contextmanager
def holder(socket: str, name: str, *words: str) -> Iterator[Holder]:
    made = Holder(socket, name, *words)
    try:
        yield made
    finally:
        made.end()
