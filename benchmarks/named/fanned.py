"""One message to each of several processes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from mmap import PAGESIZE as PAGE
from typing import TYPE_CHECKING, Final

import ipcd_client

from benchmarks.named.stage import Cue, Missing, Stage, free_port, play

if TYPE_CHECKING:
    from typing_extensions import Buffer  # which the type checker has; Python does from 3.12 on

SETTLE = 0.5  # seconds for subscriptions that nobody confirms


@dataclass(frozen=True, slots=True)
class Load:
    """Messages of so many bytes, to each of so many subscribers."""

    subscribers: int
    messages: int
    size: int

    def rate(self, results: list[tuple[float, float]]) -> float:
        """Messages a second, of all subscribers together; wall clocks of one machine."""
        begin = min(start for start, _ in results)
        return self.subscribers * self.messages / (max(end for _, end in results) - begin)


SMALL: Final = Load(10, 5000, 64)
# As large as NATS takes them by default, and no more of them than it keeps for a subscriber who is slow.
LARGE: Final = Load(4, 48, 1 << 20)


def _look(data: Buffer) -> None:
    """At a byte of each page: what is mapped has to be there."""
    memoryview(data)[::PAGE].tobytes()


def _ipcd_subscriber(cue: Cue, load: Load, node: str) -> tuple[float, float]:
    with ipcd_client.topic("bench.>", node=node) as topic, topic.subscribe(policy="block") as messages:
        cue.ready()
        start = 0.0
        for count, message in enumerate(messages, start=1):
            _look(message.data)
            start = start or time.time()
            if count == load.messages:
                break
        return start, time.time()


def _ipcd_publisher(cue: Cue, load: Load, node: str) -> tuple[float, float]:
    with ipcd_client.topic("bench.one", node=node) as topic:
        cue.ready()
        record = bytes(load.size)
        start = time.time()
        for _ in range(load.messages):
            topic.publish(record)
    return start, start


def ipcd(stage: Stage, load: Load = SMALL) -> float:
    subscriber = (_ipcd_subscriber, load, stage.a)
    return load.rate(play(*[subscriber] * load.subscribers, (_ipcd_publisher, load, stage.a)))


async def _hears(cue: Cue, load: Load, port: int) -> tuple[float, float]:
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
        for _ in range(load.messages):
            _look((await subscription.next_msg(timeout=60)).data)
            start = start or time.time()
        return start, time.time()
    finally:
        await client.close()


async def _says(cue: Cue, load: Load, port: int) -> tuple[float, float]:
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        cue.ready()
        record = bytes(load.size)
        start = time.time()
        for _ in range(load.messages):
            await client.publish("bench.one", record)
        await client.flush()
        return start, start
    finally:
        await client.close()


def _nats_subscriber(cue: Cue, load: Load, port: int) -> tuple[float, float]:
    return asyncio.run(_hears(cue, load, port))


def _nats_publisher(cue: Cue, load: Load, port: int) -> tuple[float, float]:
    return asyncio.run(_says(cue, load, port))


def nats(stage: Stage, load: Load = SMALL) -> float:
    port = stage.needs("nats")
    return load.rate(play(*[(_nats_subscriber, load, port)] * load.subscribers, (_nats_publisher, load, port)))


def _zmq_subscriber(cue: Cue, load: Load, address: str) -> tuple[float, float]:
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
        for _ in range(load.messages):
            _look(sock.recv())
            start = start or time.time()
        return start, time.time()


def _zmq_publisher(cue: Cue, load: Load, address: str) -> tuple[float, float]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as sock:
        sock.sndhwm = 0
        sock.bind(address)
        cue.ready()
        time.sleep(SETTLE)
        record = bytes(load.size)
        start = time.time()
        for _ in range(load.messages):
            sock.send(record)
        time.sleep(SETTLE)
        return start, start


def zmq(stage: Stage, load: Load = SMALL) -> float:  # noqa: ARG001
    address = f"tcp://127.0.0.1:{free_port()}"
    return load.rate(play(*[(_zmq_subscriber, load, address)] * load.subscribers, (_zmq_publisher, load, address)))
