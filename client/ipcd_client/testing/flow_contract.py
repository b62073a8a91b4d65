"""The part of the wires' contract that is about frames, bounds and waiting."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from ipcd_client.errors import ProtocolError, WireClosed, WireTimeout
from ipcd_client.frame import codec
from ipcd_client.frame.codec import HEADER, HEADER_SIZE, JOIN_BELOW, LARGE, Frame
from ipcd_client.frame.settings import MAX_HELLO
from ipcd_client.testing.pair_contract import Ends, PairContract
from ipcd_client.testing.wire_tools import (
    FILLING,
    LIMIT,
    MAX_FRAME,
    Worker,
    fill,
    message,
    pass_on,
    raw,
    soon,
    transfer,
)
from ipcd_client.wire.base import Wire


class FlowContract(PairContract):
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
        # TLS puts something around it.
        assert one.backlog <= before + HEADER_SIZE + 100 + 64
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

    def test_what_is_there_to_read_is_no_room_to_write(self, ends: Ends) -> None:
        one, other = ends
        fill(one)
        other.send(message(b"unread"))
        assert one.poll(LIMIT)
        assert not one.poll_write(0.05)

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
