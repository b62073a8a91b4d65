"""This node's ends of links for topics, when other nodes come and go: with the real calls of a node that does not
answer."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from integration.daemons import LONG, until
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import topic_pb2
from primitives import hostile_topics
from primitives.roads import Cluster
from primitives.test_topic_hostile import liar

from ipcd.log import Log
from ipcd.primitives.topic_links import Link, Links
from ipcd.primitives.topic_memory import Memories
from ipcd.primitives.topic_outlets import Outlets
from ipcd.primitives.topic_wakers import Wakers
from ipcd.quota import Quotas
from ipcd.state.topic import Board

__all__ = ["liar"]


class Made:
    """Links as those of a daemon are, which believes that it sees the nodes `names`."""

    def __init__(self, cluster: Cluster, *names: str) -> None:
        self.names = list(names)
        self.changed = Waiters()
        broker = SimpleNamespace(changed=self.changed, links=SimpleNamespace(names=lambda: self.names))
        keeper: Any = SimpleNamespace(node="t", socket=cluster.front.socket, log=Log("t"), broker=broker)
        self.board = Board("t")
        wakers = Wakers(self.board, Memories(Quotas(time.monotonic)))
        self.links = wakers.links = Links(keeper, self.board, wakers, Outlets(keeper, self.board, wakers))

    def subscribe(self) -> int:
        """Something is wanted of all nodes."""
        request = topic_pb2.TopicSubscribeRequest(name="some.x")
        return self.board.subscribe(request, (), ("spiffe://local/node/a/uid/0",)).interest.id


@pytest.mark.parametrize("wanted", [True, False], ids=["linked", "not linked"])
def test_a_node_that_leaves_fails_nobody_who_asks_all(liar: Cluster, wanted: bool) -> None:
    async def main() -> None:
        made = Made(liar, "b", "c")
        if wanted:
            made.subscribe()
        asked, gone = asyncio.Event(), asyncio.Event()

        async def ask(link: Link) -> str:
            if link.node == "c":
                await gone.wait()
                return link.node
            request = topic_pb2.TopicReplayRequest(name=hostile_topics.HANGING, here=True)
            async for _ in link.stub().Replay(request, timeout=10 * LONG):
                asked.set()
            return link.node

        asking = asyncio.get_running_loop().create_task(made.links.ask(ask))
        await asked.wait()
        made.names.remove("b")
        async with asyncio.timeout(LONG):
            # The daemon notices.
            await made.links.settled(0)
            gone.set()
            assert await asking == ["c"]
        await made.links.close()

    asyncio.run(main())


def test_who_asks_and_is_gone_leaves_nobody_asking(liar: Cluster) -> None:
    async def main() -> None:
        made = Made(liar, "b", "c")
        asked, over = asyncio.Event(), []

        async def ask(link: Link) -> None:
            try:
                asked.set()
                await asyncio.Event().wait()
            finally:
                # One takes longer than the other.
                for _ in range(10 if link.node == "c" else 0):
                    await asyncio.sleep(0)
                over.append(link.node)

        asking = asyncio.get_running_loop().create_task(made.links.ask(ask))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert sorted(over) == ["b", "c"]
        await made.links.close()

    asyncio.run(main())


def test_what_a_node_says_fails_nobody_who_asks_all(liar: Cluster) -> None:
    async def main() -> None:
        made = Made(liar, "b", "c")

        async def ask(link: Link) -> str:
            if link.node == "b":
                raise AttributeError("as of a reply that does not parse")
            return link.node

        assert await made.links.ask(ask) == ["c"]
        await made.links.close()

    asyncio.run(main())


def test_a_node_that_comes_while_another_is_stopped(liar: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        made = Made(liar, "b")
        made.subscribe()
        stopping, stop = asyncio.Event(), asyncio.Event()
        begun: list[str] = []

        async def slow(_link: Link) -> None:
            stopping.set()
            await stop.wait()

        with monkeypatch.context() as patched:
            patched.setattr(Link, "stop", slow)
            patched.setattr(Link, "begin", lambda link: begun.append(link.node))
            patched.setattr(Link, "running", True)
            made.links.start()

            async def has_begun(node: str) -> bool:
                return node in begun

            await until(lambda: has_begun("b"), "the first one is begun with")
            made.names[:] = []
            made.changed.progressed()
            await stopping.wait()
            made.names[:] = ["c"]
            made.changed.progressed()
            stop.set()
            await until(lambda: has_begun("c"), "the other one is begun with")
            await made.links.close()

    asyncio.run(main())


def test_a_node_that_comes_back_while_it_is_stopped(liar: Cluster) -> None:
    async def main() -> None:
        made = Made(liar, "b")
        interest = made.subscribe()
        await made.links.settled(interest)
        (link,) = made.links._linked()
        assert not link.owes(interest)
        stopping = asyncio.get_running_loop().create_task(link.stop())
        await asyncio.sleep(0)
        link.begin()
        await stopping

        async def linked() -> bool:
            return not link._failed and not link.owes(interest)

        await until(linked, "it is linked again")
        await made.links.close()

    asyncio.run(main())
