"""Several servers of one service: which of them gets a call, while they come, go, and take no more."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from sdk.processes import LONG, TESTS, Processes, eventually
from sdk.spread_server import SERVICE

Who = Callable[[], str]


def start(world: Processes, node: str, name: str, *options: str) -> subprocess.Popen[str]:
    return world.ready(name, f"{TESTS}/sdk/spread_server.py", name, world.socket(node), *options)


class LoopCaller:
    """A channel on the event loop of a thread of its own, called from here."""

    def __init__(self, path: str, options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._channel = self._run(self._make(path, options))

    async def _make(self, path: str, options: Any) -> ipcd_client.aio.Channel:
        return ipcd_client.aio.channel(node=path, options=options)

    async def _who(self) -> str:
        name: bytes = await self._channel.unary_unary(f"/{SERVICE}/Who")(b"", timeout=LONG)
        return name.decode()

    def who(self) -> str:
        name: str = self._run(self._who())
        return name

    def close(self) -> None:
        self._run(self._channel.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * LONG)


@pytest.fixture(params=["on threads", "on a loop"])
def caller(request: pytest.FixtureRequest, world: Processes) -> Iterator[Callable[..., Who]]:
    """Makes a function that calls over a channel of its own, and says who has answered."""
    ends: list[Callable[[], object]] = []

    def make(node: str, **options: int) -> Who:
        given = [(f"ipcd.{key}", value) for key, value in options.items()]
        if request.param == "on a loop":
            loop = LoopCaller(world.socket(node), given)
            ends.append(loop.close)
            return loop.who
        channel = ipcd_client.channel(node=world.socket(node), options=given)
        ends.append(channel.close)
        call = channel.unary_unary(f"/{SERVICE}/Who")
        return lambda: call(b"", timeout=LONG).decode()

    yield make
    for end in ends:
        end()


def all_of(who: Who, names: set[str]) -> None:
    """Until these answer, and no others; they are called all the time."""

    def seen() -> bool:
        return {who() for _ in range(4 * len(names))} == names

    eventually(seen, f"{names} answer, and no others")


def test_calls_are_spread(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    for name in ("one", "two", "three"):
        start(world, "a", name)
    who = caller("a")
    all_of(who, {"one", "two", "three"})
    counts = Counter(who() for _ in range(300))
    assert counts == {"one": 100, "two": 100, "three": 100}


def test_weights_count(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    start(world, "a", "three", "ipcd.weight=3")
    start(world, "a", "one")
    start(world, "a", "none", "ipcd.weight=0")
    who = caller("a")
    all_of(who, {"one", "three"})
    counts = Counter(who() for _ in range(400))
    # Thirds add up to one or to almost one: a turn more or less.
    assert counts.keys() == {"three", "one"}
    assert abs(counts["three"] - 300) <= 1


def test_a_weight_of_0_is_for_when_there_is_no_other(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    start(world, "a", "spare", "ipcd.weight=0")
    who = caller("a")
    assert who() == "spare"
    other = start(world, "a", "other")
    all_of(who, {"other"})
    other.terminate()
    all_of(who, {"spare"})


def test_one_that_comes_is_used_and_one_that_ends_is_not(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    start(world, "a", "one")
    who = caller("a")
    assert who() == "one"
    for signal_of_end in (signal.SIGTERM, signal.SIGKILL):
        two = start(world, "a", "two")
        all_of(who, {"one", "two"})
        if signal_of_end == signal.SIGTERM:
            two.terminate()
        else:
            # A call that it has could not be told from one that it has carried out: none is under way here.
            world.kill(two)
        all_of(who, {"one"})


def test_the_option_bounds_how_many(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    for name in ("one", "two", "three"):
        start(world, "a", name)
    all_of(caller("a"), {"one", "two", "three"})
    few = caller("a", spread=2)
    eventually(lambda: len({few() for _ in range(20)}) == 2, "two answer")
    assert len({few() for _ in range(100)}) == 2
    alone = caller("a", spread=1)
    assert len({alone() for _ in range(100)}) == 1


def test_health_that_is_not_serving_gets_no_calls(world: Processes, caller: Callable[..., Who]) -> None:
    world.daemon("a")
    one = start(world, "a", "one")
    start(world, "a", "two")
    who = caller("a")
    all_of(who, {"one", "two"})
    one.send_signal(signal.SIGUSR1)
    all_of(who, {"two"})
    one.send_signal(signal.SIGUSR2)
    all_of(who, {"one", "two"})


@pytest.fixture
def two_nodes(world: Processes) -> None:
    """a and b, linked."""
    world.daemon("a", "--listen", "127.0.0.1:0")
    with ipcd_client.channel("ipcd-node:", node=world.socket("a")) as channel:
        from sdk.test_node import status

        address = status(channel)
    world.daemon("b", "--listen", "127.0.0.1:0", "--peer", address)


@pytest.mark.usefixtures("two_nodes")
def test_those_near_come_first(world: Processes, caller: Callable[..., Who]) -> None:
    start(world, "b", "far-one")
    start(world, "b", "far-two")
    who = caller("a")
    eventually(lambda: answers(who), "the nodes know each other")
    all_of(who, {"far-one", "far-two"})
    near = start(world, "a", "near")
    all_of(who, {"near"})
    near.terminate()
    all_of(who, {"far-one", "far-two"})


@pytest.mark.usefixtures("two_nodes")
def test_what_is_over_the_spillover_goes_elsewhere(world: Processes) -> None:
    start(world, "a", "near", "ipcd.spillover=3")
    start(world, "b", "far")
    with ipcd_client.channel(node=world.socket("a")) as channel:
        who = channel.unary_unary(f"/{SERVICE}/Who")
        stay = channel.unary_stream(f"/{SERVICE}/Stay")

        def both() -> bool:
            calls = [stay(b"", timeout=LONG) for _ in range(5)]
            names = [next(call) for call in calls]
            for call in calls:
                call.cancel()
            return names == [b"near"] * 3 + [b"far"] * 2

        assert who(b"", timeout=LONG, wait_for_ready=True) == b"near"
        eventually(both, "the fourth goes to the other node")
        eventually(lambda: {who(b"", timeout=LONG) for _ in range(10)} == {b"near"}, "with few, all are near")


def answers(who: Who) -> bool:
    try:
        who()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def test_the_daemon_away_and_back(world: Processes, caller: Callable[..., Who]) -> None:
    """Calls go on; servers that come with the new daemon are used, and those that were there are known again."""
    daemon = world.daemon("a")
    start(world, "a", "one")
    who = caller("a")
    assert who() == "one"
    world.kill(daemon)
    for _ in range(50):
        assert who() == "one"
    world.daemon("a")
    start(world, "a", "two")
    all_of(who, {"one", "two"})
    assert Counter(who() for _ in range(100)) == {"one": 50, "two": 50}
