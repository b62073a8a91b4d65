"""The part of the wires' contract that is about how a wire ends."""

from __future__ import annotations

import contextlib
import time

import pytest

from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.codec import HEADER_SIZE, LARGE, Frame
from ipcd_client.testing.pair_contract import Ends, PairContract
from ipcd_client.testing.wire_tools import (
    FILLING,
    LIMIT,
    Worker,
    drain,
    fill,
    message,
    raw,
    send_until_closed,
    soon,
)


class EndContract(PairContract):
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
