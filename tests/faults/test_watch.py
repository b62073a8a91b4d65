"""What tells whether something grows, and what draws it."""

from __future__ import annotations

import os
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from faults.engine import Found
from faults.report import POINTS, peaks, write
from faults.watch import ENOUGH, Watch, grown

COUNT = 3 * ENOUGH


def noisy(base: float, slope: float, warm: float = 0.0) -> list[float]:
    dice = random.Random(1)
    return [
        base + slope * at - warm * max(0, 20 - at) + dice.uniform(-0.05, 0.05) * base + (base if at % 17 == 3 else 0)
        for at in range(COUNT)
    ]


@pytest.mark.parametrize("values", [noisy(40_000, 0), noisy(40_000, 0, warm=1000), noisy(40_000, -20), [5.0] * COUNT])
def test_flat(values: list[float]) -> None:
    assert grown("private_kib", values, 4096) == []


@pytest.mark.parametrize(("slope", "units"), [(400, 4096.0), (0.4, 4.0)])
def test_growing(slope: float, units: float) -> None:
    (words,) = grown("it", noisy(10 if slope < 1 else 40_000, slope), units)
    assert words.startswith("it has grown from ")


def test_too_few_samples_tell_nothing() -> None:
    assert grown("threads", [float(at) for at in range(ENOUGH - 1)], 2) == []


def test_what_is_held_at_rest(tmp_path: Path) -> None:
    watch = Watch()
    own = {"daemon a": os.getpid()}
    watch.keep(watch.look("none", own))
    descriptors = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(8)]
    try:
        found = watch.look("some <fault>", own)
    finally:
        for fd in descriptors:
            os.close(fd)
    (words,) = watch.excess(found)
    assert words.startswith("daemon a has ")
    assert "descriptors" in words
    assert watch.excess(watch.look("none", own)) == []
    watch.keep(found)
    write(str(tmp_path / "out"), watch, [Found("some <fault>", 2.0, 0.5)])
    assert (tmp_path / "out" / "samples.csv").read_text().count("\n") == 3
    assert "some <fault>,2.00,0.50," in (tmp_path / "out" / "rounds.csv").read_text()
    drawing = ET.parse(tmp_path / "out" / "processes.svg").getroot()
    assert len(drawing.findall(".//{*}polyline")) == 3


def test_a_long_run_is_drawn_by_its_peaks() -> None:
    points = [(float(number), float(number % 97)) for number in range(10 * POINTS)]
    drawn = peaks(points)
    assert len(drawn) == POINTS
    assert max(height for _, height in drawn) == 96
    assert set(drawn) <= set(points)
    assert peaks(points[:POINTS]) == points[:POINTS]
    assert peaks([]) == []
