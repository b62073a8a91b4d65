"""What is made of another node's clock."""

from __future__ import annotations

import math

import pytest
from ipcd_client.pb.ipcd.v1 import peer_pb2

from ipcd.state.clock import SAMPLES, ClockOffset, ClockTalk


@pytest.mark.parametrize("skew", [0.0, 0.5, -0.5, 86_400.0 * 365, -86_400.0 * 365])
@pytest.mark.parametrize(("there", "back"), [(0.01, 0.01), (0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
def test_the_offset_is_within_its_own_error(skew: float, there: float, back: float) -> None:
    offset = ClockOffset()
    sent = 1.8e9
    received = sent + there + skew
    offset.sample(sent, received, received + 0.003, there + 0.003 + back)
    assert offset.best is not None
    found, error = offset.best
    assert abs(found - skew) <= error + 1e-5
    assert error == pytest.approx((there + back) / 2, abs=1e-5)


def test_the_quickest_reply_counts_and_old_ones_are_forgotten() -> None:
    offset = ClockOffset()
    offset.sample(100.0, 107.0, 107.0, 4.0)
    offset.sample(100.0, 105.1, 105.1, 0.2)
    offset.sample(100.0, 103.0, 103.0, 2.0)
    assert offset.best == pytest.approx((5.0, 0.1))
    for _ in range(SAMPLES):  # the other clock was set
        offset.sample(100.0, 201.0, 201.0, 2.0)
    assert offset.best == pytest.approx((100.0, 1.0))


@pytest.mark.parametrize(
    ("received", "replied", "elapsed"),
    [
        (100.0, 99.0, 1.0),  # set back between
        (100.0, 110.0, 1.0),  # set forward between
        (math.nan, 100.0, 1.0),
        (100.0, math.nan, 1.0),
        (math.inf, math.inf, 1.0),
        (-math.inf, 100.0, 1.0),
        (-5.0, -5.0, 1.0),
        (1e300, 1e300, 1.0),
        (100.0, 100.0, math.nan),
        (100.0, 100.0, -1.0),
    ],
)
def test_what_cannot_be_is_no_sample(received: float, replied: float, elapsed: float) -> None:
    offset = ClockOffset()
    offset.sample(100.0, received, replied, elapsed)
    assert offset.best is None


def test_two_nodes_talk() -> None:
    """Their clocks are 7 s apart; each way takes 0.1 s."""
    a, b = ClockTalk(), ClockTalk()
    a.ask()
    request = a.next(1000.0, 50.0)
    assert request is not None
    assert a.next(1000.0, 50.0) is None
    assert b.hear(request, 1007.1, 3.1)
    reply = b.next(1007.2, 3.2)
    assert reply is not None
    assert a.hear(reply, 1000.3, 50.3)
    assert a.offset.best == pytest.approx((7.0, 0.1))
    # Told twice, it is no second sample; nor is the answer to what was not asked, or was given up.
    a.ask()
    a.next(1010.0, 60.0)
    assert a.hear(reply, 1010.1, 60.1)
    a.ask()
    assert a.hear(peer_pb2.LinkMessage(clock_reply=peer_pb2.ClockReply(number=3, received=1, replied=1)), 0.0, 0.0)
    assert a.offset.best == pytest.approx((7.0, 0.1))


def test_a_clock_that_is_set_back_before_the_reply_goes_is_no_negative_time() -> None:
    talk = ClockTalk()
    talk.hear(peer_pb2.LinkMessage(clock_request=peer_pb2.ClockRequest(number=9)), 500.0, 0.0)
    reply = talk.next(400.0, 0.1)
    assert reply is not None
    assert reply.clock_reply.number == 9
    assert reply.clock_reply.replied >= reply.clock_reply.received


def test_other_messages_are_left_to_others() -> None:
    talk = ClockTalk()
    for message in (peer_pb2.LinkMessage(), peer_pb2.LinkMessage(resync=peer_pb2.ResyncRequest())):
        assert not talk.hear(message, 0.0, 0.0)
    assert talk.next(0.0, 0.0) is None
