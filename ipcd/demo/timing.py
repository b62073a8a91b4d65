"""Latencies of one call made over and over: the samples and what is told of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns


def percentile(ordered: Sequence[int], percent: float) -> int:
    """The nearest-rank percentile of samples in ascending order; raises ValueError for none."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Summary:
    calls: int
    p50_us: float
    p99_us: float
    per_second: float  # calls one after the other, the caller's own work between them included


class Samples:
    """The time of each call, gathered over several turns."""

    def __init__(self) -> None:
        self._ns = array("q")
        self._spent_ns = 0

    def turn(self, call: Callable[[], object], seconds: float) -> float:
        """Make the call for `seconds`, at least once; gives the median of this turn in microseconds."""
        first = len(self._ns)
        append, clock = self._ns.append, perf_counter_ns
        began = end = clock()
        until = began + int(seconds * 1e9)
        while True:
            start = clock()
            call()
            end = clock()
            append(end - start)
            if end >= until:
                break
        self._spent_ns += end - began
        return percentile(sorted(self._ns[first:]), 50) / 1000

    def summary(self) -> Summary:
        """Over all turns. Raises ValueError where there was none."""
        ordered = sorted(self._ns)
        return Summary(
            calls=len(ordered),
            p50_us=percentile(ordered, 50) / 1000,
            p99_us=percentile(ordered, 99) / 1000,
            per_second=len(ordered) / (self._spent_ns / 1e9),
        )


def ratio_text(ratio: float) -> str:
    """A ratio of two times as people say it: "1/12.3" for the smaller, "1.4 x" for the larger."""
    return f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.1f} x"
