"""Records sent and received again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import ipcd_client

from benchmarks.named.stage import Cue, Missing, Stage, play

SECONDS = 1.5
RECORD = bytes(64)


def pairs_a_second(once: Callable[[], object]) -> float:
    """How often it can be done."""
    once()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS:
        for _ in range(20):
            once()
        count += 20
    return count / passed


def _ipcd(cue: Cue, node: str, durable: bool) -> float:
    with ipcd_client.queue("durable" if durable else "bench", node=node, create=True, durable=durable) as queue:

        def once() -> None:
            queue.send(RECORD)
            queue.receive(timeout=10)

        cue.ready()
        return pairs_a_second(once)


def ipcd(stage: Stage) -> float:
    return float(play((_ipcd, stage.a, False))[0])


def ipcd_durable(stage: Stage) -> float:
    return float(play((_ipcd, stage.a, True))[0])


def _posix(cue: Cue) -> float:
    try:
        import posix_ipc
    except ImportError as error:
        raise Missing(str(error)) from error
    queue = posix_ipc.MessageQueue(None, posix_ipc.O_CREX, max_messages=10, max_message_size=64)
    try:

        def once() -> None:
            queue.send(RECORD)
            queue.receive()

        cue.ready()
        return pairs_a_second(once)
    finally:
        queue.close()
        queue.unlink()


def posix(stage: Stage) -> float:  # noqa: ARG001
    return float(play((_posix,))[0])


def _redis(cue: Cue, port: int, durable: bool) -> float:
    try:
        import redis
    except ImportError as error:
        raise Missing(str(error)) from error
    with redis.Redis("127.0.0.1", port) as client:
        client.config_set("appendonly", "yes" if durable else "no")
        client.config_set("appendfsync", "always")

        def once() -> None:
            client.rpush("bench", RECORD)
            client.lpop("bench")

        cue.ready()
        try:
            return pairs_a_second(once)
        finally:
            client.config_set("appendonly", "no")


def redis(stage: Stage) -> float:
    return float(play((_redis, stage.needs("redis"), False))[0])


def redis_durable(stage: Stage) -> float:
    return float(play((_redis, stage.needs("redis"), True))[0])


async def _jetstream(cue: Cue, port: int) -> float:
    try:
        import nats
    except ImportError as error:
        raise Missing(str(error)) from error
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        stream = client.jetstream()
        await stream.add_stream(name="bench", subjects=["bench"], storage="memory", retention="workqueue")
        subscription = await stream.pull_subscribe("bench", durable="one")

        async def once() -> None:
            await stream.publish("bench", RECORD)
            (message,) = await subscription.fetch(1, timeout=10)
            await message.ack()

        await once()
        cue.ready()
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < SECONDS:
            await once()
            count += 1
        await stream.delete_stream("bench")
        return count / passed
    finally:
        await client.close()


def _nats(cue: Cue, port: int) -> float:
    return asyncio.run(_jetstream(cue, port))


def nats(stage: Stage) -> float:
    return float(play((_nats, stage.needs("nats")))[0])
