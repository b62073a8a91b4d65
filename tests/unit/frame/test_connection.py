"""What belongs to no call: pings, and what a violation leaves."""

from __future__ import annotations

import pytest
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Frame
from ipcd_client.testing.pipe import End, frames, join, pair
from unit.frame.ends import opened, violation


def received(end: End, frame: Frame, times: int) -> None:
    for _ in range(times):
        end.core.receive(frame)


def test_a_ping_is_answered() -> None:
    one, other = pair()
    one.send(one.core.ping(b"abcdefgh"))
    assert other.deliver() == []
    assert one.deliver() == [events.PongReceived(b"abcdefgh")]


@pytest.mark.parametrize(("stream_id", "payload"), [(1, b"12345678"), (0, b""), (0, b"1234567"), (0, b"123456789")])
def test_pings_that_are_none(stream_id: int, payload: bytes) -> None:
    one, _ = pair()
    assert violation(one, *codec.encode(codec.PING, stream_id, payload)) == "bad-ping"


def test_a_peer_that_never_reads_its_answers() -> None:
    one, _ = pair()
    with pytest.raises(ProtocolError) as caught:
        received(one, Frame(codec.PING, 0, 0, 0, 0, b"12345678"), 1_000_000)
    assert caught.value.violation == "unread-answers"
    assert len(one.core.outbox) == limits.MAX_ANSWERS


def test_the_first_violation_stays() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    assert violation(callee, *codec.encode(codec.PING, 0)) == "bad-ping"
    core = callee.core
    for frame in (Frame(codec.MESSAGE, stream_id, 0, 0, 0, b""), Frame(codec.HELLO, 5, 0, 0, 0, b"")):
        with pytest.raises(ProtocolError) as caught:
            core.receive(frame)
        assert caught.value.violation == "bad-ping"


def test_the_same_error_again_and_again_does_not_grow() -> None:
    caller, _ = pair()
    depths = []
    for _ in range(50):
        with pytest.raises(ProtocolError) as caught:
            caller.core.receive(Frame(codec.GOAWAY, 1, 0, 0, 0, b""))
        depths.append(len(caught.traceback))
    assert max(depths) < 10


def test_payloads_where_none_may_be() -> None:
    for type_ in (codec.CLOSE_SEND, codec.WINDOW):
        caller, callee = pair()
        stream_id = opened(caller, callee)
        assert violation(callee, *codec.encode(type_, stream_id, b"x", aux=1)) == "long-payload"
    for type_, end in ((codec.OPEN, 1), (codec.STATUS, 0)):
        ends = pair()
        opened(*ends)
        stream_id = 3 if type_ == codec.OPEN else 1
        assert violation(ends[end], *codec.encode(type_, stream_id, b"x")) == "long-payload"
    ends = pair()
    opened(*ends)
    assert violation(ends[0], *codec.encode(codec.HEADERS, 1, b"\x02\x00\x00\x00\x00\x00x")) == "long-payload"


def test_reasons_are_cut() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    (frame,) = frames(caller.core.reset(stream_id, 1, "\u20ac" * 1000))
    assert len(frame.payload) <= limits.MAX_REASON
    callee.incoming += join(codec.encode(codec.RESET, stream_id, b"\xff" * 5000, aux=77))
    (event,) = callee.deliver()
    assert event == events.ResetReceived(stream_id, 77, "\ufffd" * limits.MAX_REASON)
