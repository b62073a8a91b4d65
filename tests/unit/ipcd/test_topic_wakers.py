"""Who is woken when messages have come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ipcd_client.pb.ipcd.v1 import topic_pb2

from ipcd.primitives.topic_memory import Memories
from ipcd.primitives.topic_wakers import WAITING, Wakers
from ipcd.quota import Quotas
from ipcd.state import quota
from ipcd.state.topic import Board

OWNER = quota.local(1, 2)


def test_subscriptions_are_woken_in_turns_and_late_ones_at_once() -> None:
    async def main() -> None:
        board = Board("a")
        wakers = Wakers(board, Memories(Quotas(time.monotonic)))
        changed: list[Any] = []
        wakers.links = type("Links", (), {"changed": lambda _, interests: changed.extend(interests)})()
        request = topic_pb2.TopicSubscribeRequest(name="x", policy=topic_pb2.TOPIC_POLICY_DROP_OLDEST)
        subscriptions = [board.subscribe(request, OWNER, ("me",)) for _ in range(3)]
        got: list[list[int]] = [[], [], []]

        async def listen(index: int) -> None:
            with wakers.of(subscriptions[index]) as news:
                while sum(got[index]) < 1 + 2 * WAITING:
                    await news.wait()
                    count = 0
                    while board.take(subscriptions[index]) is not None:
                        count += 1
                    got[index].append(count)

        async def publish(count: int) -> None:
            for _ in range(count):
                board.publish(topic_pb2.TopicPublishRequest(name="x", data=b"x"), OWNER, 0.0)
                wakers.tell()

        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(listen(index)) for index in range(3)]
            await asyncio.sleep(0)
            # One: each in a turn of its own, and the task runs in the next one.
            await publish(1)
            counts = []
            while sum(map(len, got)) < 3:
                await asyncio.sleep(0)
                counts.append(sum(map(len, got)))
            assert sorted(set(counts)) == [0, 1, 2, 3]
            # So many that none may wait for its turn.
            await publish(2 * WAITING)
            await asyncio.sleep(0)
            assert [one[1:] for one in got] == [[2 * WAITING]] * 3
            await asyncio.wait(listening)
        for subscription in subscriptions:
            board.unsubscribe(subscription)
        # The turns of those that are gone do nothing.
        wakers.tell()
        for _ in range(5):
            await asyncio.sleep(0)
        assert board.held == 0

    asyncio.run(main())
