"""What the processes of the cluster hold, over time, and whether it grows."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

# What a process may hold more than at first, at rest: a few connections over shared memory, of eight descriptors each;
# threads of a pool, and the descriptor of each that has waited. Whether it grows is told by `growth`.
MORE_DESCRIPTORS: Final = {"daemon": 4, "server": 80, "caller": 80}
MORE_THREADS: Final = {"daemon": 0, "server": 32, "caller": 4}
# Growth from the second third of a run to its last that is none: a share, and units of each measure. A process with
# threads has more memory the older it is, as each thread gets to large messages, and how old one becomes is chance.
SHARE: Final = 0.15
UNITS: Final = {"private_kib": 4096.0, "descriptors": 8.0, "threads": 4.0}
# Samples of one part below which nothing is said.
ENOUGH: Final = 60


class Sample(NamedTuple):
    """One process, at rest. `part`: its name, which its successors have too."""

    seconds: float
    fault: str
    part: str
    pid: int
    private_kib: int
    descriptors: int
    threads: int


def sample(seconds: float, fault: str, part: str, pid: int) -> Sample:
    """What it holds now. Raises OSError where it has ended."""
    private = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in {"Private_Clean", "Private_Dirty"}:
            private += int(rest.split()[0])
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    return Sample(seconds, fault, part, pid, private, descriptors, threads)


class Watch:
    """Samples of all parts. Those of the first look are what later ones are held against."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._first: dict[str, Sample] = {}
        self.samples: list[Sample] = []

    def look(self, fault: str, processes: dict[str, int]) -> list[Sample]:
        """At all of them."""
        seconds = time.monotonic() - self._begin
        found = [sample(seconds, fault, part, pid) for part, pid in processes.items()]
        for one in found:
            self._first.setdefault(one.part, one)
        return found

    def keep(self, samples: Iterable[Sample]) -> None:
        """For the record."""
        self.samples += samples

    def excess(self, samples: Iterable[Sample]) -> list[str]:
        """Which of these processes hold more than they should at rest, in words."""
        wrong = []
        for one in samples:
            first, kind = self._first[one.part], one.part.split()[0]
            if one.descriptors > first.descriptors + MORE_DESCRIPTORS[kind]:
                wrong.append(f"{one.part} has {one.descriptors} descriptors, at first it had {first.descriptors}")
            if one.threads > first.threads + MORE_THREADS[kind]:
                wrong.append(f"{one.part} has {one.threads} threads, at first it had {first.threads}")
        return wrong

    def write(self, path: Path) -> None:
        """All samples, as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Sample._fields)
            writer.writerows(self.samples)

    def growth(self) -> list[str]:
        """Which parts have grown, in words. What nine tenths of the last third are below is held against that of the
        second: neither the warming up counts, nor how often a process had just been started, nor a single sample."""
        wrong = []
        for part in dict.fromkeys(one.part for one in self.samples):
            of_part = [one for one in self.samples if one.part == part]
            for measure, units in UNITS.items():
                values: list[float] = [getattr(one, measure) for one in of_part]
                wrong += [f"{part}: {words}" for words in grown(measure, values, units)]
        return wrong


def grown(measure: str, values: Sequence[float], units: float) -> list[str]:
    """In words, whether these grow."""
    if len(values) < ENOUGH:
        return []
    third = len(values) // 3
    before, after = (statistics.quantiles(part, n=10)[-1] for part in (values[third : 2 * third], values[2 * third :]))
    if after <= before * (1 + SHARE) + units:
        return []
    return [f"{measure} has grown from {before:g} to {after:g}"]
