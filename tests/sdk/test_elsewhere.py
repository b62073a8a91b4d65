"""Servers that die or end well at each step of a call: what was not sent goes elsewhere, what is in flight fails and
names the server, and no handler sees a call twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from conformance.configs import retrying
from conformance.ways import PATH, WAYS, Way
from sdk.processes import LONG, TESTS, Processes, eventually

SERVICE = "conformance.v1.Echo"
Options = Sequence[tuple[str, Any]]
PACE = 0.002  # seconds between two calls of the same thread
AIO = [Way(kind, "aio") for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")]

every_way = pytest.mark.parametrize("way", [*WAYS, *AIO], ids=".".join)


class Caller:
    """Calls one way over one channel, from threads or from a loop."""

    def __init__(self, way: Way, path: str, transport: str, options: Options) -> None:
        self._way = way
        self._pool = futures.ThreadPoolExecutor(8)
        self._channel = ipcd_client.channel(node=path, transport=transport, options=options)
        self._multicallable = way.multicallable(self._channel)

    def begin(self, request: bytes) -> futures.Future[bytes]:
        """A call on its way, whose result is the server's name."""
        return self._pool.submit(self._way.run, self._multicallable, request)

    def in_flight(self) -> int:
        """Calls on the one connection."""
        return self._channel.route(SERVICE).connection.load

    def close(self) -> None:
        self._channel.close()
        self._pool.shutdown()


class LoopCaller:
    """The same of grpc.aio's kind."""

    def __init__(self, way: Way, path: str, transport: str, options: Options) -> None:
        self._way = way
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._channel: ipcd_client.aio.Channel = self._run(self._made(path, transport, options))

    async def _made(self, path: str, transport: str, options: Options) -> ipcd_client.aio.Channel:
        return ipcd_client.aio.channel(node=path, transport=transport, options=options)

    async def _call(self, request: bytes) -> bytes:
        multicallable = getattr(self._channel, self._way.kind)(PATH)
        call = multicallable([request] if self._way.sends_stream else request, timeout=LONG)
        if not self._way.gets_stream:
            response: bytes = await call
            return response
        (response,) = [response async for response in call]
        return response

    async def _load(self) -> int:
        return (await self._channel.route(SERVICE)).connection.load

    def begin(self, request: bytes) -> futures.Future[bytes]:
        return asyncio.run_coroutine_threadsafe(self._call(request), self._loop)

    def in_flight(self) -> int:
        load: int = self._run(self._load())
        return load

    def close(self) -> None:
        self._run(self._channel.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG)


Over = Callable[..., Caller | LoopCaller]


class Servers:
    """Recording servers of one kind of method, and what they have seen."""

    def __init__(self, world: Processes, way: Way) -> None:
        self._world = world
        self._way = way
        self._serves = "loop" if way.how == "aio" else "threads"
        self._file = Path(world.folder, "seen")
        world.daemon("a")

    def start(self, name: str) -> subprocess.Popen[str]:
        arguments = (name, self._world.socket("a"), str(self._file), self._way.kind, self._serves)
        return self._world.ready(name, f"{TESTS}/sdk/recording_server.py", *arguments)

    def used(self, prefix: str) -> bool:
        """Whether there is a line that begins so."""
        return any(line.startswith(prefix) for line in self.seen())

    def seen(self) -> list[str]:
        """Lines of name and request."""
        return self._file.read_text().splitlines() if self._file.exists() else []


@pytest.fixture
def servers(world: Processes, way: Way) -> Servers:
    return Servers(world, way)


@pytest.fixture
def caller_over(world: Processes, way: Way) -> Iterator[Over]:
    made: list[Caller | LoopCaller] = []

    def make(transport: str, options: Options = ()) -> Caller | LoopCaller:
        kind = LoopCaller if way.how == "aio" else Caller
        made.append(kind(way, world.socket("a"), transport, options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


def names(error: BaseException | None, server: subprocess.Popen[str]) -> bool:
    """Whether a call has failed because of that server, and says so."""
    assert isinstance(error, grpc.RpcError), error
    told: Any = error
    return told.code() is grpc.StatusCode.UNAVAILABLE and f"pid {server.pid} on node a" in told.details()


@every_way
def test_killed_before_it_has_read_the_call(world: Processes, way: Way, servers: Servers, caller_over: Over) -> None:
    """Shared memory tells what the dead one has never looked at."""
    caller = caller_over("shm")
    one = servers.start("one")
    assert caller.begin(b"1").result(LONG) == b"one"
    one.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, one.pid, os.WSTOPPED)  # each of its threads
    unread = caller.begin(b"2")
    eventually(caller.in_flight, "the call is sent")
    servers.start("two")
    world.kill(one)
    assert unread.result(LONG) == b"two"
    assert servers.seen() == ["one 1", "two 2"]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@every_way
def test_killed_while_it_has_the_call(
    world: Processes, way: Way, servers: Servers, caller_over: Over, transport: str
) -> None:
    caller = caller_over(transport)
    one = servers.start("one")
    running = caller.begin(b"hold 1")
    eventually(lambda: servers.seen() == ["one hold 1"], "the call runs")
    servers.start("two")
    world.kill(one)
    assert names(running.exception(LONG), one)
    assert caller.begin(b"2").result(LONG) == b"two"
    assert servers.seen() == ["one hold 1", "two 2"]


@every_way
def test_ends_well_with_a_call(world: Processes, way: Way, servers: Servers, caller_over: Over) -> None:
    caller = caller_over("unix")
    one = servers.start("one")
    running = caller.begin(b"hold 1")
    eventually(lambda: servers.seen() == ["one hold 1"], "the call runs")
    servers.start("two")
    one.terminate()
    others = [caller.begin(b"%d" % number) for number in range(20)]
    answered = [b"one hold 1", *(b"%s %d" % (call.result(LONG), number) for number, call in enumerate(others))]
    assert not running.done()
    one.send_signal(signal.SIGUSR1)
    assert running.result(LONG) == b"one"
    one.wait(LONG)
    assert Counter(servers.seen()) == Counter(line.decode() for line in answered)
    assert caller.begin(b"last").result(LONG) == b"two"


@every_way
def test_a_policy_has_it_tried_again(world: Processes, way: Way, servers: Servers, caller_over: Over) -> None:
    """When the server dies, there is no other yet."""
    caller = caller_over("shm", retrying(maxAttempts=5, initialBackoff="1s", maxBackoff="3s"))
    one = servers.start("one")
    running = caller.begin(b"hold 1")
    eventually(lambda: servers.seen() == ["one hold 1"], "the call runs")
    world.kill(one)
    two = servers.start("two")
    eventually(lambda: servers.seen() == ["one hold 1", "two hold 1"], "the call runs elsewhere")
    two.send_signal(signal.SIGUSR1)
    assert running.result(LONG) == b"two"


@every_way
def test_servers_that_end_and_die_under_load(world: Processes, way: Way, servers: Servers, caller_over: Over) -> None:
    caller = caller_over("auto")
    old = servers.start("0")
    over = threading.Event()
    numbers = itertools.count()
    calls: dict[str, futures.Future[bytes]] = {}

    def load() -> None:
        while not over.wait(PACE):
            number = f"{next(numbers)}"
            calls[number] = caller.begin(number.encode())
            futures.wait([calls[number]], LONG)

    killed = []
    with futures.ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for turn, end in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL), 1):
                new = servers.start(f"{turn}")
                eventually(partial(servers.used, f"{turn} "), "the new one is used")
                old.send_signal(end)
                old.wait(LONG)
                if end == signal.SIGKILL:
                    killed.append(old)
                old = new
        finally:
            over.set()
        for done in loads:
            done.result(LONG)
    seen = Counter(servers.seen())
    times = Counter(line.partition(" ")[2] for line in seen.elements())
    assert set(times.values()) == {1}, "nothing is sent twice"
    assert len(calls) > 20
    for number, call in calls.items():
        error = call.exception(LONG)
        if error is None:
            assert f"{call.result().decode()} {number}" in seen
        else:
            assert any(names(error, server) for server in killed)
