"""Which waits a home asks other nodes about, and when; with a clock of its own."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ipcd_client.pb.ipcd.v1 import peer_pb2

from ipcd import limits
from ipcd.parties import NoLinks
from ipcd.primitives.lock_chases import Chaser
from ipcd.state import quota
from ipcd.state.lock import Locks
from ipcd.state.lock_parts import Wait


class _Selector(selectors.DefaultSelector):
    """Nothing is waited for: the time passes instead."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "it waits, and nothing will wake it"
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """Whose time is the test's."""

    now = 1.0

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class Links(NoLinks):
    """With one node, that takes some time for each question. `asked`: how often about which wait, by its number."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked = Counter[int]()
        self.sessions = 0
        self._seconds = seconds

    def names(self) -> Sequence[str]:
        return ("b",)

    async def chase(self, node: str, request: peer_pb2.ChaseRequest) -> None:
        assert node == "b", "there is no link with it"
        self.asked[request.origin.number] += 1
        self.sessions += len(request.steps)
        await asyncio.sleep(self._seconds)


class Home:
    """A node that keeps a lock which somebody holds for ever."""

    def __init__(self, links: Links) -> None:
        keeper: Any = SimpleNamespace(node="a", broker=SimpleNamespace(links=links), log=mock.Mock())
        self.locks = Locks()
        self.locks.make("x")
        self.chaser = Chaser(keeper, self.locks, lambda *_: None, asyncio.get_running_loop().time)
        self.wait(0, [])

    def wait(self, party: int, elsewhere: Sequence[tuple[str, bytes]]) -> Wait | None:
        """A party of that number waits, with sessions elsewhere; the first holds it instead."""
        session = self.locks.open("x", party, quota.local(1, 7), called=party.to_bytes(16, "big"))
        self.locks.acquire(session, 1, 0, 0, shared=False, wait=True, now=0.0, elsewhere=elsewhere)
        return session.waits.get(1)


def run(main: Any) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def named(node: str, number: int) -> tuple[str, bytes]:
    return node, number.to_bytes(16, "big")


def test_of_waits_that_begin_together_none_is_left_out_for_ever() -> None:
    """Where more are asked about than may be under way: the circle may be that of the last one."""

    async def main() -> None:
        links = Links(0.5)
        home = Home(links)
        waits = [home.wait(number, [named("b", number)]) for number in range(1, limits.LOCK_CHASE_SENT + 5)]
        for wait in waits:
            assert wait is not None
            home.chaser.watch(wait)
            await asyncio.sleep(0.001)
        with mock.patch("random.uniform", random.Random(1).uniform):
            await asyncio.sleep(120.0)
        assert links.asked.keys() == {wait.number for wait in waits if wait is not None}
        await home.chaser.close()

    run(main)


def test_nodes_that_there_is_no_link_with_are_not_asked() -> None:
    """Whoever waits can name many that there are not."""

    async def main() -> None:
        links = Links()
        home = Home(links)
        wait = home.wait(1, [named(f"no{number}", number) for number in range(63)] + [named("b", 63)])
        assert wait is not None
        home.chaser._begin(wait)
        assert len(home.chaser._sending) == 1
        await asyncio.sleep(1.0)
        assert links.asked == {wait.number: 1}
        await home.chaser.close()

    run(main)


def test_what_is_asked_of_others_counts() -> None:
    """So nobody has the others look at more for it than its home would."""

    async def main() -> None:
        links = Links()
        home = Home(links)
        wait = home.wait(1, [named("b", number) for number in range(60)])
        assert wait is not None
        for _ in range(3):
            home.chaser._begin(wait)
        await asyncio.sleep(0)
        assert links.sessions == 120
        await home.chaser.close()

    with mock.patch.object(limits, "LOCK_CHASE_BEGUN", {"process": (1.0, 100.0)}):
        run(main)
