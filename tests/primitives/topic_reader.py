"""A subscriber that keeps what it is given: `topic_reader.py SOCKET NAME FACE`, where FACE is threads or loop.

For each line of standard input, a number, it receives so many messages, and writes what it has been given and what it
has mapped as a line of JSON. With "few N" it may open N more descriptors from then on.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import ipcd_client
import ipcd_client.aio

_SOFT, _HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
_MAPS = Path("/proc/self/maps").open()  # noqa: SIM115 - until the end, as it may find no descriptor later


def inodes() -> list[int]:
    """Of memory that is mapped, each once."""
    _MAPS.seek(0)
    lines = _MAPS.read().splitlines()
    return sorted({int(line.split()[4]) for line in lines if "memfd:ipcd-sealed" in line})


def told(kept: list[Any], given: list[Any]) -> None:
    kept += given
    facts = {
        "types": [type(one.data).__name__ for one in given],
        "sums": [crc32(one.data) for one in given],
        "missed": [one.missed for one in given],
        "inodes": inodes(),
    }
    print(json.dumps(facts), flush=True)


def few(more: int) -> None:
    """From now on there are so many descriptors more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_SOFT, _HARD))
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    while (one := os.open(os.devnull, os.O_RDONLY)) < highest:
        pass  # those between are taken
    os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (one + more, _HARD))


def by_threads(socket: str, name: str) -> None:
    kept: list[Any] = []
    with ipcd_client.topic(name, node=socket) as topic, topic.subscribe() as messages:
        print("listens", flush=True)
        for line in sys.stdin:
            if line.startswith("few"):
                few(int(line.split()[1]))
                continue
            told(kept, [messages.receive() for _ in range(int(line))])


async def on_a_loop(socket: str, name: str) -> None:
    kept: list[Any] = []
    loop = asyncio.get_running_loop()
    async with ipcd_client.aio.topic(name, node=socket) as topic, await topic.subscribe() as messages:
        print("listens", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.startswith("few"):
                few(int(line.split()[1]))
                continue
            told(kept, [await messages.receive() for _ in range(int(line))])


if __name__ == "__main__":
    _, socket, name, face = sys.argv
    if face == "loop":
        asyncio.run(on_a_loop(socket, name))
    else:
        by_threads(socket, name)
