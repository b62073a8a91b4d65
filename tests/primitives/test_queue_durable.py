"""What a durable queue has acknowledged is never lost, and what was acknowledged to it never comes again, however often
the daemon is killed. `IPCD_QUEUE_KILLS`: how often."""

from __future__ import annotations

import functools
import os
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import ipcd_client
import pytest
from integration.daemons import Daemons, eventually
from ipcd_client.primitives.errors import Empty, Lost, TimedOut
from ipcd_client.rpc.failure import CallFailed

KILLS = int(os.environ.get("IPCD_QUEUE_KILLS", "20"))
PROGRAM = str(Path(__file__).with_name("queue_program.py"))
PRODUCERS = 4
# Between two kills so many are sent and so many received, at least.
PROGRESS = 25


class Consumer:
    """Receives, in a thread: half of it at once, the other half held and acknowledged."""

    def __init__(self, socket: str) -> None:
        # How often each came; those whose acknowledgement was answered; and what came after that.
        self.received: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.again: list[str] = []
        self.end = threading.Event()
        self._socket = socket
        self._random = random.Random(1)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with ipcd_client.queue("q", node=self._socket) as queue:
            while not self.end.is_set():
                at_once = self._random.random() < 0.5
                try:
                    messages = queue.receive_many(self._random.randint(1, 5), timeout=0.2, ack=at_once)
                except (CallFailed, TimedOut, Empty):
                    self.end.wait(0.02)
                    continue
                for message in messages:
                    text = message.data.decode()
                    self.received[text] = self.received.get(text, 0) + 1
                    if text in self.acknowledged:
                        self.again.append(text)
                    if at_once:
                        if message.acknowledged:
                            self.acknowledged.add(text)
                        continue
                    try:
                        message.ack()
                    except (CallFailed, Lost):
                        continue  # it may come again, and may not
                    self.acknowledged.add(text)


class Ledger:
    """What the producers say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.sent: set[str] = set()
        self.failed: set[str] = set()
        self._process = process
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n") and line.strip():
                word, text = line.split()
                (self.sent if word == "sent" else self.failed).add(text)


@pytest.mark.timeout(120 + 20 * KILLS)
def test_nothing_is_lost_by_kill_9(nodes: Daemons) -> None:
    chance = random.Random(2)
    state = ("--state-dir", str(nodes.folder / "state"), "--log-level", "info")
    daemon = nodes.run("a", *state)
    with ipcd_client.queue("q", node=daemon.socket, durable=True, max_messages=100, lease=0.5) as queue:
        queue.create()
        consumer = Consumer(daemon.socket)
        with subprocess.Popen(
            [sys.executable, PROGRAM, daemon.socket, "q", "produce", str(PRODUCERS)], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                ledger = Ledger(process)
                for _ in range(KILLS):
                    goal = (len(ledger.sent) + PROGRESS, len(consumer.acknowledged) + PROGRESS)
                    eventually(functools.partial(reached, ledger, consumer, goal), "it goes on")
                    threading.Event().wait(chance.random() * 0.05)
                    daemon.kill()
                    daemon = nodes.run("a", *state)
            finally:
                process.kill()
                ledger.thread.join()
        try:
            eventually(lambda: not len(queue.stat()), "all is received")
        finally:
            consumer.end.set()
            consumer.thread.join()
        # Where the answer to an acknowledgement got lost, it may have counted: then it does not come again.
        assert ledger.sent - consumer.received.keys() == set()
        assert consumer.again == []
        # What failed may be there, once: nobody has sent it again.
        assert consumer.received.keys() <= ledger.sent | ledger.failed | last(ledger)
        queue.send(b"the end")
        assert daemon.stop() == 0
    with sqlite3.connect(nodes.folder / "state" / "queues.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT data FROM messages").fetchall() == [(b"the end",)]
    database.close()
    print(
        f"{KILLS} kills: {len(ledger.sent)} sends acknowledged, {len(ledger.failed)} failed; "
        f"{len(consumer.acknowledged)} receives acknowledged, {sum(consumer.received.values())} deliveries"
    )


def reached(ledger: Ledger, consumer: Consumer, goal: tuple[int, int]) -> bool:
    """So many are sent, and so many are received."""
    return len(ledger.sent) >= goal[0] and len(consumer.acknowledged) >= goal[1]


def last(ledger: Ledger) -> set[str]:
    """What each producer may have sent when it was killed itself."""
    told = ledger.sent | ledger.failed
    return {
        f"{producer}.{1 + max(int(text.partition('.')[2]) for text in told if text.startswith(f'{producer}.'))}"
        for producer in range(PRODUCERS)
    }
