"""When a silent node is suspected and given up, on links of all kinds."""

from __future__ import annotations

import pytest

from ipcd.state import heartbeat
from ipcd.state.heartbeat import Heartbeat


def after(*rtts: float) -> Heartbeat:
    beat = Heartbeat()
    for rtt in rtts:
        beat.answered(rtt)
    return beat


def test_a_quick_link_is_judged_sooner_than_a_slow_one() -> None:
    quick, slow = after(*[0.001] * 20), after(*[0.2, 0.5] * 20)
    assert quick.suspect_after == pytest.approx(heartbeat.SUSPECT, abs=0.01)
    assert quick.dead_after == pytest.approx(heartbeat.DEAD, abs=0.01)
    assert quick.suspect_after < slow.suspect_after
    assert quick.dead_after < slow.dead_after


def test_before_the_first_answer_nothing_is_known() -> None:
    assert Heartbeat().suspect_after == heartbeat.SUSPECT_MOST
    assert Heartbeat().dead_after == heartbeat.DEAD_MOST


@pytest.mark.parametrize("rtts", [[], [1e-9], [1e9], [0.0], [0.3] * 100, [0.001, 5.0, 0.001]])
def test_the_bounds_hold_whatever_is_measured(rtts: list[float]) -> None:
    beat = after(*rtts)
    assert heartbeat.SUSPECT <= beat.suspect_after <= heartbeat.SUSPECT_MOST
    assert heartbeat.DEAD <= beat.dead_after <= heartbeat.DEAD_MOST < 3.0
    assert beat.suspect_after < beat.dead_after


@pytest.mark.parametrize("rtts", [[], [0.001] * 9, [0.4, 0.9, 0.4]])
def test_whoever_follows_the_pauses_notices_each_bound_at_once_and_pings_when_it_should(rtts: list[float]) -> None:
    """Played through: nothing is heard from 0 on."""
    beat = after(*rtts)
    now, pinged = 0.0, 0.0
    noticed: list[float] = []
    pings: list[float] = []
    bounds = [beat.suspect_after, beat.dead_after]
    while bounds:
        while bounds and now >= bounds[0]:
            noticed.append(now - bounds[0])
            del bounds[0]
        if beat.ping_due(now, now - pinged):
            pinged = now
            pings.append(now)
        pause = beat.pause(now, now - pinged)
        assert 0.0 <= pause <= heartbeat.EVERY
        now += max(pause, 1e-6)
    assert max(noticed) < 0.001
    assert pings[0] == pytest.approx(heartbeat.EVERY, abs=0.001)
    # Enough for a few to be lost while there is still hope.
    assert len(pings) >= 6


def test_while_all_is_well_there_is_one_ping_each_period() -> None:
    beat = after(*[0.001] * 5)
    now, heard, pinged, pings = 0.0, 0.0, 0.0, 0
    while now < 60.0:
        if beat.ping_due(now - heard, now - pinged):
            pinged, heard, pings = now, now + 0.001, pings + 1
        now += max(1e-3, beat.pause(now - heard, now - pinged))
    assert pings == pytest.approx(60.0 / heartbeat.EVERY, rel=0.02)
