"""What is made of readings."""

from __future__ import annotations

import json

import pytest

from benchmarks.stats import Reading, Samples, best, from_json, median, medians, ratio, select, value


def reading(peer: str, size: int, p50_us: float, **more: float) -> Reading:
    return Reading("latency", peer, {"size": size}, {"p50_us": p50_us, **more})


RUN = [
    reading("a", 64, 10.0),
    reading("a", 4096, 20.0),
    reading("b", 64, 40.0),
    Reading("throughput", "a", {"way": "futures", "in_flight": 32}, {"calls_per_s": 5.0}),
    Reading("throughput", "a", {"way": "threads", "in_flight": 32}, {"calls_per_s": 7.0}),
]


def test_a_value_is_found_by_its_point() -> None:
    assert value(RUN, "p50_us", "latency", "a", size=4096) == 20.0
    assert value(RUN, "p50_us", "latency", "b", size=4096) is None
    assert value(RUN, "p99_us", "latency", "a", size=64) is None
    assert [one.values["p50_us"] for one in select(RUN, "latency", size=64)] == [10.0, 40.0]


def test_of_several_ways_the_best_is_taken() -> None:
    found = best(RUN, "calls_per_s", "throughput", "a", in_flight=32)
    assert found is not None
    assert found.at["way"] == "threads"
    assert best(RUN, "calls_per_s", "throughput", "a", in_flight=8) is None


@pytest.mark.parametrize(
    ("part", "whole", "expected"), [(1.0, 4.0, 0.25), (None, 4.0, None), (1.0, None, None), (1.0, 0.0, None)]
)
def test_ratio(part: float | None, whole: float | None, expected: float | None) -> None:
    assert ratio(part, whole) == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0, 1.0, 2.0], 2.0), ([None, 1.0, 3.0], 2.0), ([None], None), ([], None)]
)
def test_a_median_passes_over_runs_that_have_no_value(values: list[float | None], expected: float | None) -> None:
    assert median(values) == expected


def test_medians_are_of_each_value_at_each_point() -> None:
    runs = [[reading("a", 64, p50, p99_us=p99)] for p50, p99 in ((1.0, 9.0), (2.0, 7.0), (9.0, 8.0))]
    runs[0].append(reading("b", 64, 5.0))
    merged = medians(runs)
    assert [(one.peer, dict(one.values)) for one in merged] == [
        ("a", {"p50_us": 2.0, "p99_us": 8.0}),
        ("b", {"p50_us": 5.0}),
    ]


def test_a_reading_goes_through_json() -> None:
    assert from_json(json.loads(json.dumps(RUN[3].as_json()))) == RUN[3]


def test_samples_of_several_turns() -> None:
    samples = Samples()
    samples.add(Samples([1000, 3000], 10_000, 400, 800, 2, 0))
    samples.add(Samples([2000, 9000], 10_000, 600, 200))
    assert samples.summary() == pytest.approx(
        {
            "p50_us": 2.0,
            "p99_us": 9.0,
            "calls": 4,
            "calls_per_s": 200_000.0,
            "client_cpu_us": 0.25,
            "server_cpu_us": 0.25,
            "client_faults": 0.5,
            "server_faults": 0.0,
        }
    )


def test_no_sample_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Samples().summary()
