"""The other end is another process: it dies at any step, it stops for a while, it is hostile."""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame import codec
from ipcd_client.testing.shm_child import BEHAVIOURS, FLIPPED, FLIPPING, WHOLE, reached, spawned
from ipcd_client.testing.shm_hand import CAPACITY
from ipcd_client.testing.wire_factories import CROSSING, ShmFactory
from ipcd_client.testing.wire_tools import MAX_FRAME, Worker, asleep, fill, message, soon
from ipcd_client.wire.base import Wire

End = tuple[list[codec.Frame], str]
# What a change of any byte of a header can look like.
NAMES = {
    "unknown-type",
    "unknown-flags",
    "oversized-frame",
    "bad-segment",
    "bad-count",
    "unexpected-fds",
    "long-payload",
}


def by_poll(wire: Wire) -> Callable[[], object]:
    """How threads wait."""
    return lambda: wire.poll(None)


def by_fileno(wire: Wire) -> Callable[[], object]:
    """How event loops wait."""
    watching = select.poll()
    watching.register(wire.fileno(), select.POLLIN)
    return watching.poll


def until_the_end(wire: Wire, waiting: Callable[[Wire], Callable[[], object]] = by_poll) -> End:
    """The frames that come, and why no more do. Nothing but the end can end the last wait."""
    wait = waiting(wire)
    frames = []
    try:
        while True:
            frame = wire.recv()
            if frame is not None:
                frames.append(frame)
            else:
                wait()
    except WireClosed as error:
        return frames, str(error)


@pytest.mark.parametrize("how", [by_poll, by_fileno])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_killed_at_a_step(behaviour: str, how: Callable[[Wire], Callable[[], object]]) -> None:
    """It is seen without any timeout, what was published before is received, and nothing is left (the leak check
    looks)."""
    with spawned(behaviour) as ((wire,), process):
        early = reached(wire, process, talking=behaviour in ("taking nothing", "giving nothing back"))
        with Worker(lambda: until_the_end(wire, how)) as waiting:
            process.kill()
        late, why = cast(End, waiting.join())
    whole = WHOLE if behaviour in ("in a header", "in a message", "unpublished") else 0
    assert [frame.payload for frame in early + late] == [b"whole"] * whole
    assert ("in the middle of a frame" in why) == (behaviour in ("in a header", "in a message", "half an offer"))
    assert "the other process" in why
    with pytest.raises(WireClosed):
        wire.send(message(b"late"))


@pytest.mark.parametrize("behaviour", ["taking nothing", "giving nothing back"])
def test_killed_while_the_ring_is_full(behaviour: str) -> None:
    """Whoever waits for room is told; and how much was never looked at is known."""
    with spawned(behaviour) as ((wire,), process):
        reached(wire, process, talking=True)
        before = wire.sent
        while not wire.backlog:
            wire.send(message(bytes(700)))
        with (
            Worker(lambda: wire.poll_write(None)) as writing,
            Worker(lambda: wire.poll(None, write=True)) as both,
        ):
            process.kill()
        assert writing.join() is both.join() is True
        with pytest.raises(WireClosed, match="the other process"):
            wire.flush()
        assert until_the_end(wire)[0] == []
        assert wire.sent - before <= wire.untaken() <= wire.sent


@pytest.mark.parametrize("behaviour", ["taking nothing", "giving nothing back"])
def test_a_sender_that_blocks_is_told_of_the_death(behaviour: str) -> None:
    with spawned(behaviour) as ((wire,), process):
        reached(wire, process, talking=True)
        with Worker(lambda: wire.send_by(message(bytes(100 * CAPACITY)), soon())) as sending:
            process.kill()
            with pytest.raises(WireClosed, match="the other process"):
                sending.join()
            sending.error = None


def test_killed_at_any_moment() -> None:
    """What has come by then is what was sent, in order."""
    chance = random.Random(7)
    factory = ShmFactory()
    for _ in range(12):
        with factory.spawn("echo") as (wire, process):
            wire.max_frame = MAX_FRAME
            sizes = [chance.choice([0, 10, 1000, 20_000, 200_000]) for _ in range(300)]
            end = chance.randrange(len(sizes))
            came = 0
            with pytest.raises(WireClosed):  # noqa: PT012 - anywhere in it
                for number, size in enumerate(sizes):
                    if number == end:
                        process.kill()
                    wire.send(message(bytes([number % 256]) * size, number + 1))
                    while wire.backlog or came < number - 20:
                        came += check(wire.recv(), came, sizes)
                        wire.flush()
                while True:
                    frame = wire.recv()
                    came += check(frame, came, sizes)
                    if frame is None:
                        wire.poll(None)


def check(frame: codec.Frame | None, number: int, sizes: list[int]) -> int:
    if frame is None:
        return 0
    assert frame.stream == number + 1
    assert frame.payload == bytes([number % 256]) * sizes[number]
    return 1


@pytest.mark.timeout(60)
def test_stopped_for_a_while() -> None:
    """Nothing is lost, and nothing comes twice; another connection is none the worse meanwhile."""
    seconds = 10.0
    with ExitStack() as stack:
        stopped = [stack.enter_context(factory.spawn("echo")) for factory in CROSSING]
        other, _ = stack.enter_context(ShmFactory().spawn("echo"))
        for wire, process in stopped:
            wire.max_frame = MAX_FRAME
            wire.send_by(message(b"before"), soon())
            assert wire.recv_by(soon()).payload == b"before"
            process.send_signal(signal.SIGSTOP)
        end = time.monotonic() + seconds
        counts = [fill(wire) for wire, _ in stopped]
        times = 0
        while time.monotonic() < end:
            other.send_by(message(bytes(1000)), soon())
            assert len(other.recv_by(soon()).payload) == 1000
            times += 1
            for wire, _ in stopped:
                assert wire.recv() is None
            time.sleep(0.01)
        assert times > 10
        for _, process in stopped:
            process.send_signal(signal.SIGCONT)
        for (wire, _), count in zip(stopped, counts, strict=True):
            streams: list[int] = []
            while len(streams) < count:
                frame = wire.recv()
                if frame is not None:
                    streams.append(frame.stream)
                else:
                    wire.poll(None, write=bool(wire.backlog))
                    wire.flush()
            assert streams == list(range(1, count + 1))
            assert wire.flush()
            assert wire.recv() is None


# -- hostile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLIPPING)
def test_bytes_that_change_while_they_are_read(kind: str) -> None:
    """Only whole frames come, as they were when they were copied, or the connection ends with a name."""
    connections, most = (40, 2000) if kind == "flip everything" else (2, 20_000)
    seen: set[str] = set()
    changed = 0
    with spawned(kind, connections) as (wires, _):
        for wire in wires:
            wire.max_frame = MAX_FRAME
            try:
                for _ in range(most):
                    frame = wire.recv_by(soon())
                    assert len(frame.payload) <= MAX_FRAME
                    if kind == "flip payloads":
                        assert frame == (codec.MESSAGE, 1, 0, 0, 0, frame.payload)
                        assert len(frame.payload) == FLIPPED
                    changed += any(frame.payload)
            except ProtocolError as error:
                seen.add(error.violation)
            wire.abort()
    assert changed
    assert seen <= NAMES
    assert bool(seen) == (kind == "flip everything")


# -- signals --------------------------------------------------------------------------------------

WAITS = ("poll", "poll with more", "poll_write", "send_by", "recv_by")
WAITING = """
import signal, socket, sys, time
from ipcd_client.testing.shm_hand import begun, sending, wire_and_hand
from ipcd_client.testing.wire_tools import message
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
wire, hand = wire_and_hand()
theirs = sending(hand)
what, end = sys.argv[1], time.monotonic() + 30
if what != "recv_by" and what != "poll":
    while not wire.backlog:
        wire.send(message(bytes(700)))
print("ready", flush=True)
try:
    if what == "poll":
        done = wire.poll(30)
    elif what == "poll with more":
        done = wire.poll(30, write=True, also=sys.stdin.fileno())
    elif what == "poll_write":
        done = wire.poll_write(30)
    elif what == "send_by":
        wire.send_by(message(b"x"), end)
        done = True
    else:
        wire.recv_by(end)
        done = True
    print("ended", done, len(handled), flush=True)
except KeyboardInterrupt:
    print("interrupted", len(handled), flush=True)
wire.abort()
hand.close()
"""


@pytest.fixture(params=WAITS)
def waiting(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose main thread waits."""
    command = [sys.executable, "-c", WAITING, request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            asleep(process.pid)
            yield process
        finally:
            process.kill()


def test_a_wait_goes_on_after_a_signal(waiting: subprocess.Popen[bytes]) -> None:
    """The handler has run, and the wait lasts; Ctrl-C then ends it long before its 30 s."""
    assert waiting.stdout is not None
    told = select.poll()
    told.register(waiting.stdout, select.POLLIN)
    for _ in range(5):
        waiting.send_signal(signal.SIGUSR1)
        assert not told.poll(50)
        asleep(waiting.pid)
    start = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    assert waiting.stdout.readline() == b"interrupted 5\n"
    assert time.monotonic() - start < 5
    assert waiting.wait(20) == 0
