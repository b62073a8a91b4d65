"""The contract that every wire keeps, as tests.

A kind of wire is held to it by a subclass in a test module::

    class TestUnix(WireContract):
        factory = UnixFactory()

There are three parts for every kind: `FlowContract` (frames and waiting), `EndContract` (how a wire ends) and
`ShortcutContract` of `shortcut_contract`; for kinds that carry descriptors `FdContract` of `fd_contract`; for kinds
that cross processes `ProcessContract`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest

from ipcd_client.errors import ProtocolError, WireClosed, WireTimeout
from ipcd_client.frame import codec
from ipcd_client.frame.codec import HEADER, HEADER_SIZE, JOIN_BELOW, LARGE, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.testing.shortcut_contract import ShortcutContract
from ipcd_client.testing.wire_child import BURST
from ipcd_client.testing.wire_factories import CrossingFactory, WireFactory
from ipcd_client.testing.wire_tools import (
    FILLING,
    LIMIT,
    MAX_FRAME,
    Worker,
    drain,
    fill,
    message,
    pass_on,
    raw,
    ready,
    send_until_closed,
    soon,
    transfer,
)
from ipcd_client.wire.base import Wire

Ends = tuple[Wire, Wire]


class _Contract:
    factory: ClassVar[WireFactory]

    @pytest.fixture
    def ends(self) -> Iterator[Ends]:
        """Two ends that take large frames."""
        with ready(self.factory.pair()) as ends:
            yield ends


class FlowContract(_Contract):
    """Frames, bounds and waiting."""

    def test_frames_arrive_whole_and_in_order(self, ends: Ends) -> None:
        chance = random.Random(1)
        payloads = [chance.randbytes(chance.choice([0, 1, 30, 500, 20_000])) for _ in range(600)]
        received = transfer(*ends, payloads)
        assert [frame.payload for frame in received] == payloads
        assert [frame.stream for frame in received] == list(range(1, 601))

    def test_every_field_of_the_header_arrives(self, ends: Ends) -> None:
        one, other = ends
        frame = Frame(codec.MESSAGE, 0xFFFF_FFFE, codec.MORE | codec.FIRST, 0xFFFF_FFFF, 0, b"payload")
        one.send(codec.encode(frame.type, frame.stream, frame.payload, frame.flags, frame.aux))
        assert other.recv_by(soon()) == frame

    @pytest.mark.parametrize(
        "size",
        [
            *(0, 1, HEADER_SIZE, 4096, 2 * LARGE, MAX_FRAME - 1, MAX_FRAME),
            *(size + by for size in (JOIN_BELOW, LARGE, LARGE - HEADER_SIZE) for by in (-1, 0, 1)),
        ],
    )
    def test_every_size(self, ends: Ends, size: int) -> None:
        payloads = [(b"abcdefg" * (size // 7 + 1))[:size], b"between", b"x" * size]
        for wires in (ends, ends[::-1]):
            assert [frame.payload for frame in transfer(*wires, payloads)] == payloads

    def test_buffers_of_every_sort_are_sent(self, ends: Ends) -> None:
        one, other = ends
        one.send([*message(b"a"), *message(bytearray(b"b" * JOIN_BELOW)), *message(memoryview(b"ccc")[1:])])
        assert [other.recv_by(soon()).payload for _ in range(3)] == [b"a", b"b" * JOIN_BELOW, b"cc"]

    def test_many_buffers_at_once(self, ends: Ends) -> None:
        one, other = ends
        count = 3000  # more than the kernel takes in one call
        one.send([buffer for number in range(count) for buffer in message(b"", number + 1)])
        for number in range(count):
            assert pass_on(one, other).stream == number + 1
        assert one.flush()

    def test_nothing_to_send(self, ends: Ends) -> None:
        assert ends[0].flush()
        assert ends[0].backlog == 0

    def test_a_frame_over_the_limit_is_refused_from_its_header_alone(self, ends: Ends) -> None:
        one, other = ends
        other.max_frame = 1000
        one.send([*message(bytes(1000)), HEADER.pack(1001, 1, codec.MESSAGE, 0, 0, 0)])
        assert len(other.recv_by(soon()).payload) == 1000
        for _ in range(2):
            with pytest.raises(ProtocolError) as caught:
                other.recv_by(soon())
            assert caught.value.violation == "oversized-frame"

    def test_only_a_hello_fits_until_it_was_taken_in(self) -> None:
        one, other = self.factory.pair()
        one.send([*message(bytes(MAX_HELLO)), *message(bytes(MAX_HELLO + 1))])
        assert len(other.recv_by(soon()).payload) == MAX_HELLO
        with pytest.raises(ProtocolError):
            other.recv_by(soon())
        one.abort()
        other.abort()

    def test_garbage_is_refused(self, ends: Ends) -> None:
        one, other = ends
        one.send([b"GET / HTTP/1.1\r\n\r\n"])
        with pytest.raises(ProtocolError):
            other.recv_by(soon())

    def test_what_is_not_taken_is_counted_and_sent_later(self, ends: Ends) -> None:
        one, other = ends
        count = fill(one)
        before = one.backlog
        assert 0 < before < count * (HEADER_SIZE + FILLING)
        assert not one.send(message(b"x" * 100, count + 1))
        assert one.backlog <= before + HEADER_SIZE + 100
        streams: list[int] = []
        while len(streams) <= count:
            streams.append(pass_on(one, other).stream)
        assert streams == list(range(1, count + 2))
        assert one.flush()
        assert one.backlog == 0

    def test_a_full_wire_becomes_writable(self, ends: Ends) -> None:
        one, other = ends
        fill(one)
        with Worker(lambda: one.poll_write(LIMIT)) as waiting:
            while waiting.result is None and waiting.error is None:
                other.recv() or other.poll(0.01)
        assert waiting.join() is True

    def test_waits_end_at_their_deadline(self, ends: Ends) -> None:
        one, _ = ends
        for timeout in (0.0, 0.05):
            start = time.monotonic()
            assert not one.poll(timeout)
            assert timeout <= time.monotonic() - start < LIMIT
        with pytest.raises(WireTimeout):
            one.recv_by(time.monotonic() + 0.02)
        with pytest.raises(WireTimeout):
            one.recv_by(time.monotonic() - 1)
        count = fill(one)
        start = time.monotonic()
        assert not one.poll_write(0.05)
        assert 0.05 <= time.monotonic() - start < LIMIT
        with pytest.raises(WireTimeout):
            one.send_by(message(b"", count + 1), time.monotonic() + 0.02)
        start = time.monotonic()
        one.close(0.05)
        assert time.monotonic() - start < LIMIT

    def test_poll_tells_of_a_frame_and_of_room(self, ends: Ends) -> None:
        one, other = ends
        assert not other.poll(0)
        assert other.poll(0, write=True)
        one.send(message(b""))
        assert other.poll(LIMIT)
        assert other.recv() is not None

    def test_a_frame_wakes_a_poller_so_the_gil_is_free_meanwhile(self, ends: Ends) -> None:
        one, other = ends
        for write in (False, True):
            if write:
                fill(other)  # so that only a frame can end the wait
            with Worker(lambda write=write: other.poll(LIMIT, write=write)) as waiting:  # type: ignore[misc]
                time.sleep(0.02)
                assert waiting.result is None
                one.send(message(b""))
            assert waiting.join() is True
            assert other.recv_by(soon()).payload == b""

    def test_an_idle_wire_costs_no_cpu(self, ends: Ends) -> None:
        one, other = ends
        transfer(one, other, [b"before"])
        start = time.thread_time()
        assert not other.poll(0.4)
        # A wait that spun would have used all of it.
        assert time.thread_time() - start < 0.2

    def test_half_a_frame_is_not_received(self, ends: Ends) -> None:
        one, other = ends
        frame = raw(b"abcdef")
        for at in (3, HEADER_SIZE, len(frame) - 1):
            one.send([frame[:at]])
            other.poll(LIMIT)
            assert other.recv() is None
            assert not other.poll(0) or other.recv() is None
            one.send([frame[at:]])
            assert other.recv_by(soon()).payload == b"abcdef"

    def test_an_event_loop_can_watch_it(self, ends: Ends) -> None:
        one, other = ends

        async def watch() -> list[bytes]:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            received: list[bytes] = []

            def readable() -> None:
                try:
                    while (frame := other.recv()) is not None:
                        received.append(bytes(frame.payload))
                except WireClosed:
                    loop.remove_reader(fd)
                    ended.set_result(None)

            fd = other.fileno()
            loop.add_reader(fd, readable)
            for number in range(20):
                one.send(message(bytes(number * 100)))
                if number % 3 == 0:
                    await asyncio.sleep(0)
            loop.call_later(0.01, one.close)
            await asyncio.wait_for(ended, LIMIT)
            return received

        assert asyncio.run(watch()) == [bytes(number * 100) for number in range(20)]

    def test_both_directions_at_once(self, ends: Ends) -> None:
        """Neither end reads before it writes, and both have more to send than fits: only who reads while it waits to
        write gets on."""
        payload, count = bytes(300_000), 40

        def exchange(wire: Wire) -> int:
            for number in range(count):
                wire.send(message(payload, number + 1))
            received = 0
            while received < count or wire.backlog:
                frame = wire.recv()
                if frame is not None:
                    received += 1
                    assert frame.stream == received
                    assert frame.payload == payload
                    continue
                assert wire.poll(LIMIT, write=bool(wire.backlog))
                if wire.backlog:
                    wire.flush()
            return received

        with Worker(lambda: exchange(ends[0])) as one, Worker(lambda: exchange(ends[1])) as other:
            assert (one.join(), other.join()) == (count, count)

    def test_one_thread_sends_while_another_receives(self, ends: Ends) -> None:
        count = 60

        def sending(wire: Wire) -> None:
            for number in range(count):
                wire.send_by(message(bytes(100_000), number + 1), soon())

        def receiving(wire: Wire) -> list[int]:
            return [wire.recv_by(soon()).stream for _ in range(count)]

        one, other = ends
        with (
            Worker(lambda: sending(one)),
            Worker(lambda: sending(other)),
            Worker(lambda: receiving(one)) as first,
            Worker(lambda: receiving(other)) as second,
        ):
            assert first.join() == second.join() == list(range(1, count + 1))


class EndContract(_Contract):
    """How a wire ends."""

    def test_all_frames_come_before_the_end(self, ends: Ends) -> None:
        one, other = ends
        for number in range(50):
            one.send(message(bytes(number), number + 1))
        one.close()
        assert [frame.stream for frame in drain(other)] == list(range(1, 51))
        for _ in range(2):
            assert other.poll(LIMIT)
            with pytest.raises(WireClosed):
                other.recv()

    def test_close_sends_the_backlog(self, ends: Ends) -> None:
        one, other = ends
        count = fill(one)
        with Worker(lambda: one.close(LIMIT)):
            assert [frame.stream for frame in drain(other)] == list(range(1, count + 1))
        assert one.closed

    def test_close_sends_the_backlog_though_what_the_peer_sent_was_not_read(self, ends: Ends) -> None:
        one, other = ends
        other.send(message(b"never read"))
        assert one.poll(LIMIT)
        count = fill(one)
        with Worker(lambda: one.close(LIMIT)):
            assert [frame.stream for frame in drain(other)] == list(range(1, count + 1))

    def test_close_gives_up_on_a_peer_that_is_gone(self, ends: Ends) -> None:
        one, other = ends
        fill(one)
        other.abort()
        one.close(LIMIT)
        assert one.closed

    def test_abort_loses_the_backlog_but_no_half_frame_is_received(self, ends: Ends) -> None:
        one, other = ends
        count = fill(one)
        one.abort()
        received = drain(other)
        assert [frame.stream for frame in received] == list(range(1, len(received) + 1))
        assert len(received) < count
        assert {len(frame.payload) for frame in received} == {FILLING}

    @pytest.mark.parametrize("how", ["abort", "close"])
    def test_an_ended_wire_stays_so(self, ends: Ends, how: str) -> None:
        one, _ = ends
        fill(one)
        assert one.fileno() >= 0
        for _ in range(2):
            if how == "abort":
                one.abort()
            else:
                one.close(0.01)
        one.shutdown()
        assert one.closed
        assert one.fileno() == -1
        assert one.backlog == 0
        assert one.poll(LIMIT)
        assert one.poll(LIMIT, write=True)
        assert one.poll_write(LIMIT)
        with pytest.raises(WireClosed):
            one.recv()
        with pytest.raises(WireClosed):
            one.send(message(b"late"))
        with pytest.raises(WireClosed):
            one.flush()

    @pytest.mark.parametrize("how", ["abort", "close", "shutdown"])
    @pytest.mark.parametrize("side", ["ours", "theirs"])
    @pytest.mark.parametrize("write", [False, True])
    def test_the_end_wakes_whoever_waits(self, ends: Ends, how: str, side: str, *, write: bool) -> None:
        one, other = ends
        fill(other)  # so that waiting for room does not end at once
        ending = other if side == "ours" else one
        waits = [lambda: other.poll(LIMIT, write=write)]
        if (side, how) != ("theirs", "shutdown"):  # that makes no room; the peer's close does
            waits.append(lambda: other.poll_write(LIMIT))
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(Worker(wait)) for wait in waits]
            time.sleep(0.01)
            if how == "close":
                ending.close(0.01)
            else:
                getattr(ending, how)()
        assert [worker.join() for worker in workers] == [True] * len(waits)

    def test_a_thread_that_receives_is_told(self, ends: Ends) -> None:
        one, other = ends
        with Worker(lambda: drain(other)) as receiving:
            one.send(message(b"first"))
            time.sleep(0.01)
            other.shutdown()
        assert receiving.join() in ([], [Frame(codec.MESSAGE, 1, 0, 0, 0, b"first")])

    def test_what_came_before_the_end_is_received_though_sending_has_failed(self, ends: Ends) -> None:
        """A peer says why, and closes. Whoever notices at sending must still get to know."""
        one, other = ends
        other.send(message(b"go away"))
        other.close()
        with pytest.raises(WireClosed):
            send_until_closed(one)
        assert one.recv_by(soon()).payload == b"go away"
        with pytest.raises(WireClosed):
            one.recv_by(soon())

    @pytest.mark.parametrize("size", [1000, 3 * LARGE])
    @pytest.mark.parametrize("missing", ["most of the header", "the payload", "the last byte"])
    def test_an_end_in_the_middle_of_a_frame(self, ends: Ends, size: int, missing: str) -> None:
        one, other = ends
        frame = raw(bytes(size), 2)
        cut = {"most of the header": 5, "the payload": HEADER_SIZE, "the last byte": len(frame) - 1}[missing]
        one.send([*message(b"whole"), frame[:cut]])
        with Worker(lambda: one.close(LIMIT)):
            assert other.recv_by(soon()).payload == b"whole"
            with pytest.raises(WireClosed, match="in the middle of a frame"):
                other.recv_by(soon())

    def test_an_end_between_frames(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(bytes(3 * LARGE)))
        with Worker(lambda: one.close(LIMIT)):
            assert len(drain(other)) == 1
        with pytest.raises(WireClosed) as caught:
            other.recv()
        assert "middle" not in str(caught.value)

    def test_the_reason_names_the_peer(self, ends: Ends) -> None:
        one, other = ends
        one.close()
        with pytest.raises(WireClosed) as caught:
            other.recv_by(soon())
        assert other.peer() in str(caught.value)


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


class WireContract(FlowContract, EndContract, ShortcutContract):
    """All that holds for wires of every kind."""
