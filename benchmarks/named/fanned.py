"""One message to each of several processes."""

from __future__ import annotations

import asyncio
import time

import ipcd_client

from benchmarks.named.stage import Cue, Missing, Stage, free_port, play

SUBSCRIBERS = 10
MESSAGES = 5000
RECORD = bytes(64)
SETTLE = 0.5  # seconds for subscriptions that nobody confirms


def _rate(results: list[tuple[float, float]]) -> float:
    """Of all subscribers together; wall clocks of one machine."""
    begin = min(start for start, _ in results)
    return SUBSCRIBERS * MESSAGES / (max(end for _, end in results) - begin)


def _ipcd_subscriber(cue: Cue, node: str) -> tuple[float, float]:
    with ipcd_client.topic("bench.>", node=node) as topic, topic.subscribe(policy="block") as messages:
        cue.ready()
        start = 0.0
        for count, _ in enumerate(messages, start=1):
            start = start or time.time()
            if count == MESSAGES:
                break
        return start, time.time()


def _ipcd_publisher(cue: Cue, node: str) -> tuple[float, float]:
    with ipcd_client.topic("bench.one", node=node) as topic:
        cue.ready()
        start = time.time()
        for _ in range(MESSAGES):
            topic.publish(RECORD)
    return start, start


def ipcd(stage: Stage) -> float:
    return _rate(play(*[(_ipcd_subscriber, stage.a)] * SUBSCRIBERS, (_ipcd_publisher, stage.a)))


async def _hears(cue: Cue, port: int) -> tuple[float, float]:
    try:
        import nats
    except ImportError as error:
        raise Missing(str(error)) from error
    client = await nats.connect(f"nats://127.0.0.1:{port}", pending_size=64 << 20)
    try:
        subscription = await client.subscribe("bench.one", pending_msgs_limit=-1, pending_bytes_limit=-1)
        await client.flush()
        cue.ready()
        start = 0.0
        for _ in range(MESSAGES):
            await subscription.next_msg(timeout=60)
            start = start or time.time()
        return start, time.time()
    finally:
        await client.close()


async def _says(cue: Cue, port: int) -> tuple[float, float]:
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        cue.ready()
        start = time.time()
        for _ in range(MESSAGES):
            await client.publish("bench.one", RECORD)
        await client.flush()
        return start, start
    finally:
        await client.close()


def _nats_subscriber(cue: Cue, port: int) -> tuple[float, float]:
    return asyncio.run(_hears(cue, port))


def _nats_publisher(cue: Cue, port: int) -> tuple[float, float]:
    return asyncio.run(_says(cue, port))


def nats(stage: Stage) -> float:
    port = stage.needs("nats")
    return _rate(play(*[(_nats_subscriber, port)] * SUBSCRIBERS, (_nats_publisher, port)))


def _zmq_subscriber(cue: Cue, address: str) -> tuple[float, float]:
    try:
        import zmq
    except ImportError as error:
        raise Missing(str(error)) from error
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.rcvhwm = 0
        sock.connect(address)
        sock.subscribe(b"")
        cue.ready()
        start = 0.0
        for _ in range(MESSAGES):
            sock.recv()
            start = start or time.time()
        return start, time.time()


def _zmq_publisher(cue: Cue, address: str) -> tuple[float, float]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as sock:
        sock.sndhwm = 0
        sock.bind(address)
        cue.ready()
        time.sleep(SETTLE)
        start = time.time()
        for _ in range(MESSAGES):
            sock.send(RECORD)
        time.sleep(SETTLE)
        return start, start


def zmq(stage: Stage) -> float:  # noqa: ARG001
    address = f"tcp://127.0.0.1:{free_port()}"
    return _rate(play(*[(_zmq_subscriber, address)] * SUBSCRIBERS, (_zmq_publisher, address)))
