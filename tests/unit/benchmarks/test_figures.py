"""The figures to reach: which reading each is made of, and when it is reached."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.figures import FIGURES, Result, results
from benchmarks.peers.registry import BY_NAME, PEERS
from benchmarks.stats import Reading


def reading(group: str, peer: str, values: dict[str, float], **at: Any) -> Reading:
    return Reading(group, peer, at, values)


def result(name: str, *runs: list[Reading]) -> Result:
    (found,) = [one for one in results(runs) if one.figure.name.startswith(name)]
    return found


def latencies(ours: float, theirs: float) -> list[Reading]:
    return [
        reading("latency", "ipcd-shm", {"p50_us": ours}, size=64),
        reading("latency", "grpcio-unix", {"p50_us": theirs}, size=64),
    ]


SHM = "unary 64 B, shm, p50 beside grpcio"


def test_nothing_measured_is_not_available() -> None:
    told = results([[]])
    assert len(told) == len(FIGURES)
    assert {one.verdict for one in told} == {"not available"}
    assert {one.value for one in told} == {None}


@pytest.mark.parametrize(("theirs", "verdict"), [(449.0, "not met"), (450.0, "met"), (451.0, "met")])
def test_a_latency_is_a_part_of_theirs(theirs: float, verdict: str) -> None:
    one = result(SHM, latencies(10.0, theirs))
    assert one.value == pytest.approx(10.0 / theirs)
    assert one.verdict == verdict


def test_of_several_runs_the_median_counts() -> None:
    one = result(SHM, latencies(10.0, 400.0), latencies(10.0, 500.0), latencies(10.0, 460.0), [])
    assert one.value == pytest.approx(1 / 46)
    assert one.single == pytest.approx((1 / 40, 1 / 50, 1 / 46, None))
    assert one.verdict == "met"


def test_calls_in_flight_are_compared_by_the_better_way_of_each() -> None:
    run = [
        reading("throughput", peer, {"calls_per_s": rate}, way=way, in_flight=32)
        for peer, way, rate in (
            ("ipcd-shm", "futures", 10.0),
            ("ipcd-shm", "threads", 80.0),
            ("grpcio-unix", "futures", 10.0),
            ("grpcio-unix", "threads", 5.0),
        )
    ]
    one = result("unary calls/s, 32 in flight, shm", run)
    assert one.value == 8.0
    assert one.verdict == "met"


@pytest.mark.parametrize(("ours", "verdict"), [(0.999, "met"), (1.0, "not met")])
def test_a_first_call_is_under_a_half(ours: float, verdict: str) -> None:
    run = [
        reading("first-call", "ipcd-shm", {"p50_us": ours}),
        reading("first-call", "grpcio-unix", {"p50_us": 2.0}),
    ]
    assert result("first call on a new channel, shm", run).verdict == verdict


@pytest.mark.parametrize(("callers", "verdict"), [(1000.0, "met"), (40.0, "not available")])
def test_fewer_callers_are_no_measure(callers: float, verdict: str) -> None:
    values = {"callers": callers, "served": callers, "rss_per_caller": 50e3}
    run = [reading("callers", "ipcd-shm", values)]
    assert result("1,000 callers on one server, shm: served", run).verdict == verdict
    assert result("1,000 callers on one server, shm: its resident memory", run).verdict == verdict


def test_one_caller_who_is_not_served_is_too_many() -> None:
    run = [reading("callers", "ipcd-shm", {"callers": 1000.0, "served": 999.0})]
    assert result("1,000 callers on one server, shm: served", run).verdict == "not met"


@pytest.mark.parametrize(
    ("cpu_ms", "seconds", "verdict"),
    [(9.0, 30.0, "met"), (18.0, 60.0, "met"), (11.0, 30.0, "not met"), (0.0, 2.0, "not available")],
)
def test_idle_is_less_than_a_tick(cpu_ms: float, seconds: float, verdict: str) -> None:
    run = [reading("idle", "ipcd", {"cpu_ms": cpu_ms, "seconds": seconds}, process="daemon", connected="")]
    assert result("idle: CPU time of the daemon", run).verdict == verdict


def test_every_figure_and_peer_names_peers_that_exist() -> None:
    assert len(BY_NAME) == len(PEERS)
    assert {peer.beside for peer in PEERS if peer.beside} <= set(BY_NAME)
    assert {name for figure in FIGURES for name in figure.needs} <= set(BY_NAME)
