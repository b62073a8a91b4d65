"""Processes that subscribe, and tell which memory their messages are in; and messages large enough for that."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integration.daemons import Daemon
from ipcd_client.pb.ipcd.v1 import topic_pb2

from ipcd import limits

READER = str(Path(__file__).with_name("topic_reader.py"))
SMALL = bytes(limits.TOPIC_MEMORY - 1)
MOST = limits.TOPIC_MESSAGE


def large(number: int, size: int = limits.TOPIC_MEMORY) -> bytes:
    """A message that no other is like."""
    return number.to_bytes(8, "big") * (size // 8)


class Reader:
    """topic_reader.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def receive(self, count: int) -> dict[str, Any]:
        """So many; see there."""
        self.tell(str(count))
        assert self.process.stdout is not None
        facts: dict[str, Any] = json.loads(self.process.stdout.readline())
        return facts


@contextlib.contextmanager
def reader(node: Daemon, name: str, face: str = "threads") -> Iterator[Reader]:
    with subprocess.Popen(
        [sys.executable, READER, node.socket, name, face],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listens\n"
            yield Reader(process)
        finally:
            process.kill()


def own_memory(pid: int) -> int:
    """Bytes that a process has for itself alone."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def asking(name: str) -> Iterator[topic_pb2.TopicSubscribeRequest]:
    """The requests of a subscription that maps."""
    yield topic_pb2.TopicSubscribeRequest(name=name, credit=8, maps=True)
