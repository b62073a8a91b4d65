"""A home whose daemon is stopped (SIGSTOP): it is there, and answers nothing. Nobody waits for that any longer than for
the time that the call had, and a margin."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import eventually
from ipcd_client.errors import IpcdError
from ipcd_client.primitives import command, lock_terms, loop_command, loop_place, place, waiting
from ipcd_client.primitives.errors import Lost
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Cluster, Road
from primitives.signal_faces import descriptors, over

pytestmark = pytest.mark.usefixtures("grpc_aio")

OFFERING = str(Path(__file__).with_name("offering.py"))
FACES = ("sync", "aio")
MARGIN = 0.3
_numbers = itertools.count()


class Face:
    """The one or the other module. `do` waits for what it makes."""

    def __init__(self, kind: str, road: Road) -> None:
        self._module: Any = ipcd_client if kind == "sync" else ipcd_client.aio
        self._runner = asyncio.Runner() if kind == "aio" else None
        self._road = road
        self._before = 0 if self._runner is None else self._runner.run(descriptors())
        self._keywords: dict[str, Any] = self.do(road.loop_keywords) if kind == "aio" else road.keywords
        self._opened: list[Any] = []

    def make(self, kind: str, name: str, *args: Any, **keywords: Any) -> Any:
        """A handle, closed at the end."""
        handle = self.do(lambda: getattr(self._module, kind)(name, *args, **self._keywords, **keywords))
        return self.later(handle)

    def watch_exit(self) -> Any:
        """Of this process."""
        return self._module.watch_exit(f"{os.getpid()}@{self._road.home.node}", **self._keywords)

    def later(self, handle: Any) -> Any:
        """To be closed at the end, before what was there before it."""
        self._opened.append(handle)
        return handle

    def do(self, act: Callable[[], Any]) -> Any:
        """What it gives, or what that turns out to be."""
        if self._runner is None:
            return act()

        async def done() -> Any:
            result = act()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(done())

    def close(self) -> None:
        """All of it."""
        while self._opened:
            handle = self._opened.pop()
            if hasattr(handle, "close"):
                self.do(handle.close)
        if self._runner is not None:
            if "channel" in self._keywords:
                self.do(self._keywords.pop("channel").close)
                self._runner.run(over(self._before))
            self._runner.close()


@pytest.fixture(params=("there", "gateway"))
def road(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Road]:
    """To another node, which is the one that is stopped: by the SDK; by grpcio and a gateway."""
    made = Road(request.param, cluster, f"t{next(_numbers)}")
    yield made
    made.close()


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Face]:
    made = Face(request.param, road)
    yield made
    made.close()


Act = Callable[[], Any]


def subscribe(face: Face, road: Road) -> Act:
    topic = face.make("topic", road.name("t"))
    face.do(topic.last)
    return topic.subscribe  # type: ignore[no-any-return]


def receive(face: Face, road: Road) -> Act:
    topic = face.make("topic", road.name("t"))
    messages = face.later(face.do(topic.subscribe))
    return lambda: messages.receive(wait=0)


def ephemeral(face: Face, road: Road) -> Act:
    value = face.make("value", road.name("v"))
    face.do(value.get)
    return lambda: value.set(b"", ephemeral=True)


def listen(face: Face, road: Road) -> Act:
    flag = face.make("signal", road.name("s"))
    face.do(flag.raise_)
    return flag.listen  # type: ignore[no-any-return]


def flag_wait(face: Face, road: Road) -> Act:
    flag = face.make("signal", road.name("s"))
    face.do(flag.raise_)
    return lambda: flag.wait(0)


def watch_exit(face: Face, road: Road) -> Act:
    return face.watch_exit


def hold(face: Face, road: Road) -> Act:
    semaphore = face.make("semaphore", road.name("s"), 3)
    face.do(semaphore.make)
    return lambda: semaphore.hold(wait=0)


def give_back(face: Face, road: Road) -> Act:
    semaphore = face.make("semaphore", road.name("s"), 3)
    held = face.do(lambda: semaphore.hold(2))
    return held.give_back  # type: ignore[no-any-return]


def release(face: Face, road: Road) -> Act:
    semaphore = face.make("semaphore", road.name("s"), 3)
    held = face.do(lambda: semaphore.hold(2))
    return held.release  # type: ignore[no-any-return]


def lock(face: Face, road: Road) -> Act:
    one = face.make("lock", road.name("l"))
    return lambda: one.acquire(wait=0)


def lock_more(face: Face, road: Road) -> Act:
    one = face.make("lock", road.name("l"))
    held = face.do(one.acquire)
    return held.downgrade  # type: ignore[no-any-return]


def open_read(face: Face, road: Road) -> Act:
    pipe = face.make("pipe", road.name("p"))
    return lambda: pipe.open_read(wait=0)


def open_write(face: Face, road: Road) -> Act:
    pipe = face.make("pipe", road.name("p"))
    return lambda: pipe.open_write(wait=0)


def notify(face: Face, road: Road) -> Act:
    queue = face.make("queue", road.name("q"), create=True)
    face.do(queue.create)
    return queue.notify  # type: ignore[no-any-return]


BEGINS = (
    subscribe,
    receive,
    ephemeral,
    listen,
    flag_wait,
    watch_exit,
    hold,
    give_back,
    release,
    lock,
    lock_more,
    open_read,
    open_write,
    notify,
)


@pytest.mark.parametrize("prepared", BEGINS)
def test_nobody_waits_for_it(
    prepared: Callable[[Face, Road], Act], face: Face, road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = prepared(face, road)
    daemon = road.home
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "MARGIN", MARGIN)
        patch.setattr(lock_terms, "ANSWER", MARGIN)
        for module in (place, loop_place):
            patch.setattr(module, "FIND", MARGIN)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises((CallFailed, Lost)) as caught:
                face.do(act)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
    if isinstance(caught.value, CallFailed):
        assert caught.value.code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    else:
        # What is held is not held any more.
        assert prepared in {give_back, release}
    eventually(lambda: answers(road), "it answers again")


def test_nobody_waits_for_an_offerer(face: Face, road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (command, loop_command):
        monkeypatch.setattr(module, "START", MARGIN)
    name = road.name("c")
    arguments = [sys.executable, OFFERING, "serve", road.home.socket, name.partition("@")[0], "cat"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as offerer:
        assert offerer.stdout is not None
        try:
            assert offerer.stdout.readline() == "offered\n"
            program = face.make("command", name)
            eventually(lambda: described(face, program), "it is known where it is offered")
            offerer.send_signal(signal.SIGSTOP)
            with pytest.raises(CallFailed) as caught:
                face.do(program.popen)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            offerer.kill()


def described(face: Face, program: Any) -> bool:
    try:
        face.do(program.describe)
    except IpcdError:
        return False
    return True


def answers(road: Road) -> bool:
    with ipcd_client.value(road.name("v"), node=road.front.socket) as value:
        try:
            value.get()
        except IpcdError:
            return False
    return True
