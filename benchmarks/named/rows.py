"""What is measured, of what, in which unit. Each peer's function measures once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.named import bytes_through, counted, fanned, queued, shared
from benchmarks.named.stage import Stage

Measure = Callable[[Stage], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `peers` by name, ipcd first."""

    name: str
    what: str
    unit: str
    peers: Mapping[str, Measure]
    more_is_better: bool = True


ROWS: Final = (
    Row(
        "pipe, one host",
        "64 KiB at a time from one process to another",
        "MB/s",
        {"ipcd": bytes_through.ipcd_here, "kernel FIFO": bytes_through.fifo},
    ),
    Row(
        "pipe, two nodes",
        "the same, between two nodes on loopback",
        "MB/s",
        {"ipcd": bytes_through.ipcd_there, "TCP socket": bytes_through.tcp, "socat": bytes_through.socat},
    ),
    Row(
        "queue",
        "send 64 B and receive it again, one process",
        "pairs/s",
        {
            "ipcd": queued.ipcd,
            "posix_ipc": queued.posix,
            "Redis list": queued.redis,
            "NATS JetStream": queued.nats,
        },
    ),
    Row(
        "durable queue",
        "the same, each on disk before it is acknowledged",
        "pairs/s",
        {"ipcd": queued.ipcd_durable, "Redis, fsync always": queued.redis_durable},
    ),
    Row(
        "semaphore",
        "acquire and release, one process",
        "pairs/s",
        {"ipcd": counted.ipcd, "posix_ipc": counted.posix, "Redis list": counted.redis},
    ),
    Row(
        "topic",
        "64 B from one process to each of 10, all counted",
        "messages/s",
        {"ipcd": fanned.ipcd, "NATS": fanned.nats, "pyzmq PUB/SUB": fanned.zmq},
    ),
    Row(
        "topic, large",
        "1 MiB from one process to each of 4, all counted, a byte of each page looked at",
        "messages/s",
        {
            "ipcd": partial(fanned.ipcd, load=fanned.LARGE),
            "NATS": partial(fanned.nats, load=fanned.LARGE),
            "pyzmq PUB/SUB": partial(fanned.zmq, load=fanned.LARGE),
        },
    ),
    Row(
        "value",
        "100 MB set once, then read by 4 processes, until the last has all of it",
        "s",
        {"ipcd": shared.ipcd, "Redis": shared.redis},
        more_is_better=False,
    ),
)
