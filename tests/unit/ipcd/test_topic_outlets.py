"""Other nodes' links for topics: whose they are when several calls come for one, and who makes room for whom."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any

import pytest
from grpc.aio import EOF
from ipcd_client.pb.ipcd.v1 import node_pb2, topic_pb2
from ipcd_client.primitives.errors import BadRequest

from ipcd import limits
from ipcd.primitives.host import Who
from ipcd.primitives.topic_memory import Memories
from ipcd.primitives.topic_outlets import Outlets
from ipcd.primitives.topic_wakers import Wakers
from ipcd.quota import Quotas
from ipcd.state.topic import Board

IDENTITY = "spiffe://local/node/{}/uid/{}"


class Called:
    """A call of Link, that wants `x`. `ends`: what its task waits for when it is cancelled."""

    def __init__(self, session: bytes, uid: int = 0, node: str = "b", **fields: Any) -> None:
        self.who = Who(IDENTITY.format(node, uid), (), node)
        self.linked = asyncio.Event()
        self.resumed = False
        self.ends: asyncio.Event | None = None
        self.ending = asyncio.Event()
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        want = topic_pb2.TopicWant(id=1, pattern="x", identity=[self.who.identity], members=1)
        self.requests.put_nowait(topic_pb2.TopicLinkRequest(session=session, wants=[want], **fields))

    async def read(self) -> Any:
        try:
            return await self.requests.get()
        except asyncio.CancelledError:
            self.ending.set()
            if self.ends is not None:
                await self.ends.wait()
            raise

    async def write(self, reply: topic_pb2.TopicLinkReply) -> None:
        self.resumed |= reply.resumed
        self.linked.set()


class Made:
    def __init__(self) -> None:
        keeper: Any = SimpleNamespace(
            node="a",
            who=lambda call: call.who,
            caller=lambda _: node_pb2.Process(daemon=True),
            check_who=lambda *_: None,
            may_who=lambda *_: True,
        )
        self.board = Board("a")
        wakers = Wakers(self.board, Memories(Quotas(time.monotonic)))
        self.outlets = Outlets(keeper, self.board, wakers)

    def begin(self, call: Called) -> asyncio.Task[None]:
        served: Any = self.outlets.serve(call)  # type: ignore[arg-type]
        return asyncio.get_running_loop().create_task(served)

    async def link(self, call: Called) -> asyncio.Task[None]:
        task = self.begin(call)
        linked = asyncio.get_running_loop().create_task(call.linked.wait())
        await asyncio.wait({task, linked}, return_when=asyncio.FIRST_COMPLETED)
        linked.cancel()
        if task.done():
            task.result()
        return task

    async def come_and_go(self, call: Called) -> None:
        task = await self.link(call)
        call.requests.put_nowait(EOF)
        await task


async def ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_link_that_is_taken_over_is_not_taken_for_one_that_is_away() -> None:
    async def main() -> None:
        made = Made()
        old = Called(b"1")
        old.ends = asyncio.Event()
        first = await made.link(old)
        others = [await made.link(Called(b"%d" % number)) for number in range(2, limits.TOPIC_SESSIONS + 1)]
        again = Called(b"1")
        second = made.begin(again)
        await old.ending.wait()
        # Its daemon still waits for the end of the first call, and all others are there.
        with pytest.raises(limits.LimitReached, match="links of one node for topics"):
            await made.link(Called(b"5"))
        old.ends.set()
        await again.linked.wait()
        await ended(first, second, *others)
        # All are remembered for a while, and then none is.
        for held in made.outlets._held.values():
            assert held.forgetting is not None
        for key in list(made.outlets._held):
            made.outlets._forget(key)
        pending = made.board.publish(topic_pb2.TopicPublishRequest(name="x"), (), 1.0)
        assert pending.nodes == 0
        assert not list(made.board._trie.match("x"))

    asyncio.run(main())


def test_of_several_that_take_a_link_over_the_last_one_has_it() -> None:
    async def main() -> None:
        made = Made()
        old = Called(b"1")
        old.ends = asyncio.Event()
        first = await made.link(old)
        calls = [Called(b"1"), Called(b"1")]
        tasks = [made.begin(call) for call in calls]
        await old.ending.wait()
        old.ends.set()
        await calls[1].linked.wait()
        await asyncio.wait({first, tasks[0]})
        assert [task.cancelled() for task in (first, *tasks)] == [True, True, False]
        assert not calls[0].linked.is_set()
        await ended(tasks[1])
        made.outlets.close()

    asyncio.run(main())


def test_a_node_makes_no_other_node_s_links_forgotten() -> None:
    async def main() -> None:
        made = Made()
        await made.come_and_go(Called(b"honest", node="c"))
        for uid in range(limits.TOPIC_AWAY + 1):
            await made.come_and_go(Called(b"1", uid))
        nodes = [held.node for held in made.outlets._held.values()]
        assert nodes == ["c"] + ["b"] * limits.TOPIC_SESSIONS_NODE
        # Those that go on make no room.
        tasks = [await made.link(Called(b"2", uid)) for uid in range(limits.TOPIC_SESSIONS_NODE)]
        with pytest.raises(limits.LimitReached, match="of all users of one node"):
            await made.link(Called(b"2", limits.TOPIC_SESSIONS_NODE))
        await ended(*tasks)
        await made.come_and_go(Called(b"3", limits.TOPIC_SESSIONS_NODE))
        assert len(made.outlets._held) == 1 + limits.TOPIC_SESSIONS_NODE
        made.outlets.close()

    asyncio.run(main())


def test_a_link_that_ends_before_it_begins_is_not_resumed() -> None:
    """The node has to know that what it missed before is not counted."""

    async def main() -> None:
        made = Made()
        broken = Called(b"1", received=7, more=True)
        broken.requests.put_nowait(EOF)
        with pytest.raises(BadRequest):
            await made.link(broken)
        for resumed in (False, True):
            call = Called(b"1", received=7)
            task = await made.link(call)
            assert call.resumed == resumed
            pending = made.board.publish(topic_pb2.TopicPublishRequest(name="x"), (), 1.0)
            assert pending.nodes == 1
            call.requests.put_nowait(EOF)
            await task
        made.outlets.close()

    asyncio.run(main())
