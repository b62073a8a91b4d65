"""What a long run leaves: samples.csv, rounds.csv, and processes.svg."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from faults.engine import Found
from faults.plot import Points, draw
from faults.watch import UNITS, Watch

# Of one line of a plot, and what happened when: more cannot be told apart.
POINTS: Final = 200
MARKS: Final = 300


def write(folder: str, watch: Watch, found: Sequence[Found]) -> None:
    """Into the folder, which is made if need be."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    watch.write(out / "samples.csv")
    with (out / "rounds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fault", "seconds", "recovered", "wrong"])
        writer.writerows(
            [one.fault, f"{one.seconds:.2f}", f"{one.recovered:.2f}", "; ".join(one.wrong)] for one in found
        )
    parts = list(dict.fromkeys(one.part for one in watch.samples))
    plots = {
        measure.replace("_", " "): {
            part: peaks([(one.seconds, float(getattr(one, measure))) for one in watch.samples if one.part == part])
            for part in parts
        }
        for measure in UNITS
    }
    marks = {one.seconds: one.fault for one in watch.samples}
    draw(out / "processes.svg", plots, list(marks.items()) if len(marks) <= MARKS else ())


def peaks(points: Points) -> Points:
    """Of a long run as many as can be seen: of those that stand for one, the one that is highest."""
    each = -(-len(points) // POINTS) or 1
    return [max(points[start : start + each], key=lambda point: point[1]) for start in range(0, len(points), each)]
