"""The part of the wires' contract that is about another process at the other end."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest

from ipcd_client.errors import WireClosed
from ipcd_client.testing.wire_child import BURST
from ipcd_client.testing.wire_factories import CrossingFactory
from ipcd_client.testing.wire_tools import (
    LIMIT,
    MAX_FRAME,
    Worker,
    drain,
    message,
    soon,
)


class ProcessContract:
    """The other end is another process."""

    factory: ClassVar[CrossingFactory]

    def test_frames_go_between_processes(self) -> None:
        with self.factory.spawn("echo") as (wire, _):
            wire.max_frame = MAX_FRAME
            for size in (0, 10, 200_000):
                wire.send_by(message(bytes(size)), soon())
                assert wire.recv_by(soon()).payload == bytes(size)

    def test_a_killed_peer_is_seen_at_once(self) -> None:
        with self.factory.spawn("burst") as (wire, process):
            assert wire.recv_by(soon()).stream == 1
            received = [wire.recv_by(soon()).stream for _ in range(BURST - 1)]
            assert received == list(range(2, BURST + 1))
            assert not wire.poll(0.01)
            with Worker(lambda: wire.poll(None)) as waiting:
                time.sleep(0.02)
                assert waiting.result is None
                process.kill()
            assert waiting.join() is True
            with pytest.raises(WireClosed):
                wire.recv_by(soon())

    def test_a_peer_that_is_killed_with_frames_under_way(self) -> None:
        with self.factory.spawn("burst") as (wire, process):
            assert wire.recv_by(soon()).stream == 1
            # Unread, so that the kernel has more to say than that it has closed.
            wire.send(message(bytes(1000)))
            process.kill()
            process.wait()
            received = [frame.stream for frame in drain(wire)]
            assert received == list(range(2, 2 + len(received)))

    def test_a_forked_child_that_abandons_leaves_the_wire_to_its_parent(self) -> None:
        with self.factory.spawn("fork") as (wire, process):
            wire.send_by(message(b"still here"), soon())
            assert wire.recv_by(soon()).payload == b"still here"
            # The child lives on, and holds nothing that would hide the parent's death.
            process.kill()
            assert wire.poll(LIMIT)
            with pytest.raises(WireClosed):
                wire.recv_by(soon())
