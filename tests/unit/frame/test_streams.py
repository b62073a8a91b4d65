"""Streams: their numbers, how many there may be, and what comes for those that are none."""

from __future__ import annotations

import pytest
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.connection import StreamsExhausted
from ipcd_client.frame.settings import Settings
from ipcd_client.frame.verbs import LAST_STREAM
from ipcd_client.testing.pipe import frames, join, pair
from unit.frame.ends import opened, violation


def test_the_dialer_opens_odd_streams_and_the_acceptor_even_ones() -> None:
    dialer, acceptor = pair()
    assert [opened(dialer, acceptor) for _ in range(3)] == [1, 3, 5]
    assert [opened(acceptor, dialer) for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize("stream_id", [0, 2, 3, 5])
def test_streams_of_the_wrong_kind_or_used_before(stream_id: int) -> None:
    caller, callee = pair()
    for _ in range(3):
        opened(caller, callee)
    assert violation(callee, *codec.encode(codec.OPEN, stream_id)) == "bad-stream-id"


def test_a_used_stream_is_not_used_again_after_its_end() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    callee.send(callee.core.status(stream_id, 0))
    caller.deliver()
    assert violation(callee, *codec.encode(codec.OPEN, stream_id)) == "bad-stream-id"


def test_numbers_may_be_left_out() -> None:
    _, callee = pair()
    callee.incoming += join(codec.encode(codec.OPEN, 0xFFFF_FFFF, codec.pack_name("/s/m"), codec.WITH_NAME))
    assert callee.deliver() == [events.CallOpened(0xFFFF_FFFF, "/s/m", None, (), None, 0, False)]
    # What was left out counts as ended.
    callee.incoming += join(codec.encode(codec.MESSAGE, 7, b"late"))
    assert callee.deliver() == []


@pytest.mark.parametrize("dialer", [True, False])
def test_streams_are_exhausted(dialer: bool) -> None:
    one, other = pair()
    caller, callee = (one, other) if dialer else (other, one)
    caller.core._next_stream = LAST_STREAM - (1 if dialer else 2)
    assert opened(caller, callee) <= LAST_STREAM
    if not dialer:
        assert opened(caller, callee) == LAST_STREAM
    with pytest.raises(StreamsExhausted):
        caller.core.open("/s/m")
    assert caller.core._opened == callee.core.accepted


@pytest.mark.parametrize("type_", sorted(set(codec.NAMES) - {codec.HELLO, codec.OPEN, codec.PING, codec.GOAWAY}))
@pytest.mark.parametrize("stream_id", [0, 1, 2, 3, 4, 0xFFFF_FFFF])
def test_frames_of_calls_that_nobody_opened(type_: int, stream_id: int) -> None:
    caller, callee = pair()
    opened(caller, callee)
    if stream_id != 1:
        assert violation(callee, *codec.encode(type_, stream_id)) == "unopened-stream"


@pytest.mark.parametrize("type_", sorted(set(codec.NAMES) - {codec.HELLO, codec.OPEN, codec.PING, codec.GOAWAY}))
def test_late_frames_are_thrown_away_unread(type_: int) -> None:
    caller, callee = pair()
    one = opened(caller, callee)
    two = opened(callee, caller)
    for end in (caller, callee):
        for stream_id in (one, two):
            end.core.reset(stream_id, limits.RESET_CANCEL)
    for end in (caller, callee):
        for stream_id in (one, two):
            end.incoming += join(codec.encode(type_, stream_id, b"\xff\xff", 0, 7))
        assert end.deliver() == []


def test_a_callee_at_its_limit_refuses() -> None:
    caller, callee = pair(Settings(), Settings(max_streams=2))
    first = [opened(caller, callee) for _ in range(2)]
    with pytest.raises(UsageError, match="max_streams"):
        caller.core.open("/s/m")
    # A caller that does not count.
    callee.incoming += join(codec.encode(codec.OPEN, 5, codec.pack_name("/other"), codec.WITH_NAME, 9))
    assert callee.deliver() == []
    assert frames([bytes(caller.incoming)])[0][:4] == (codec.RESET, 5, 0, limits.RESET_REFUSED)
    caller.incoming.clear()
    callee.send(callee.core.status(first[0], 0))
    caller.deliver()
    # The name that came with the refused one holds, and its late frames are thrown away.
    callee.incoming += join([*codec.encode(codec.MESSAGE, 5, b"x"), *codec.encode(codec.OPEN, 7, b"", 0, 9)])
    assert callee.deliver() == [events.CallOpened(7, "/other", None, (), None, 0, False)]


def test_a_draining_callee_refuses_and_the_rest_goes_on() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    late_id, late = caller.core.open("/s/m")
    caller.send(late)
    callee.send(callee.core.drain("bye"))
    assert callee.core.drain("again") == []
    assert callee.deliver() == []
    # The refusal behind it is of a call that has ended already.
    assert caller.deliver() == [events.GoAwayReceived(limits.GOAWAY_DRAIN, "bye", (late_id,))]
    assert not caller.core.is_open(late_id)
    with pytest.raises(UsageError, match="no new calls"):
        caller.core.open("/s/m")
    callee.send(callee.core.status(stream_id, 0))
    assert len(caller.deliver()) == 1
    assert caller.core.idle
    assert callee.core.idle


def test_an_end_that_takes_no_calls() -> None:
    caller, callee = pair(Settings(), Settings(accept_calls=False))
    with pytest.raises(UsageError, match="takes no calls"):
        caller.core.open("/s/m")
    opened(callee, caller)
    assert violation(callee, *codec.encode(codec.OPEN, 1, codec.pack_name("/s/m"), codec.WITH_NAME)) == (
        "calls-not-accepted"
    )


def test_only_a_draining_goaway_says_that_calls_were_not_begun() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    callee.send(callee.core.goaway(limits.GOAWAY_VIOLATION, "bad-ping"))
    assert caller.deliver() == [events.GoAwayReceived(limits.GOAWAY_VIOLATION, "bad-ping", ())]
    assert caller.core.is_open(stream_id)


@pytest.mark.parametrize(("stream_id", "code"), [(2, 0), (3, 0), (5, 0), (1, 1), (0xFFFF_FFFF, 0)])
def test_goaways_that_cannot_be(stream_id: int, code: int) -> None:
    caller, callee = pair()
    opened(caller, callee)
    assert violation(caller, *codec.encode(codec.GOAWAY, stream_id, aux=code)) == "bad-goaway"
