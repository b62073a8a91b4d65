"""Samples and what is told of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipcd.demo.timing import Samples, percentile, ratio_text


def test_percentile_is_the_nearest_rank() -> None:
    samples = list(range(1, 101))
    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile(samples, 100) == 100
    assert percentile(samples, 0) == 1
    assert percentile([7], 99) == 7
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@given(samples=st.lists(st.integers(0, 10**9), min_size=1), percent=st.floats(0, 100))
def test_that_part_of_the_samples_is_at_or_below_it(samples: list[int], percent: float) -> None:
    samples.sort()
    value = percentile(samples, percent)
    assert value in samples
    assert sum(one <= value for one in samples) >= percent / 100 * len(samples) - 1e-6


def test_turns_add_up() -> None:
    samples = Samples()
    median = samples.turn(lambda: time.sleep(0.002), 0.05)
    samples.turn(lambda: time.sleep(0.002), 0.05)
    summary = samples.summary()
    assert 2000 <= median < 50_000
    assert 2000 <= summary.p50_us <= summary.p99_us
    assert 2 <= summary.calls <= 50
    # One call after the other, none of them under 2 ms.
    assert summary.per_second < 500


def test_a_turn_makes_one_call_at_least() -> None:
    samples = Samples()
    calls: list[int] = []
    samples.turn(lambda: calls.append(1), 0.0)
    assert len(calls) == samples.summary().calls == 1
    with pytest.raises(ValueError, match="no samples"):
        Samples().summary()


@pytest.mark.parametrize(("ratio", "text"), [(1 / 12.34, "1/12.3"), (0.5, "1/2.0"), (1.0, "1.0 x"), (1.44, "1.4 x")])
def test_ratio_text(ratio: float, text: str) -> None:
    assert ratio_text(ratio) == text
