"""The command `python -m benchmarks.cluster`: what a catalog that all nodes share costs, by how many there are."""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import machine, mesh, plots, tables
from benchmarks.show import Show

NAME: Final = "benchmarks.cluster"
STEM: Final = "cluster-scaling"
COUNTS: Final = (10, 30, 100, 300, 1000)
CHANGES: Final = 60
QUICK: Final = 3

_EPILOG = """\b
Examples:
  python -m benchmarks.cluster --out docs                  the full report: some minutes, and 6 GB for the largest
  python -m benchmarks.cluster --nodes 10 --nodes 50 --quick

Exit codes: 0; 2, usage; 130, interrupted.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the tables."""

    key: str
    heading: str
    unit: str
    scale: float = 1.0

    def text(self, figures: mesh.Figures) -> str:
        number = figures[self.key] / self.scale
        return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"


TABLES: Final = (
    (
        "A change of the catalog",
        """\
A server comes, serves something else, or goes, and every other node is told. The owner makes the change and a message
for each link; each other node parses it and takes it into its copy.""",
        (
            Column("change_bytes", "all links", "B"),
            Column("change_bytes_per_link", "one link", "B"),
            Column("change_us", "CPU, all nodes", "us"),
            Column("change_owner_us", "CPU, the owner", "us"),
            Column("change_other_us", "CPU, each other", "us"),
        ),
    ),
    (
        "A node that joins",
        """\
It knows the address of one, which tells it of the others and the others of it; then it is linked with each, and both
tell of their servers.""",
        (
            Column("join_bytes", "all links", "kB", 1e3),
            Column("join_us", "CPU, all nodes", "ms", 1e3),
            Column("join_own_us", "CPU, the new one", "ms", 1e3),
        ),
    ),
    (
        "While nothing happens",
        """\
Memory is what the process of the simulation grows by for each node: catalog, members and queues, without what the
sockets of the links need. Heartbeats are counted, not measured: pings of both ends of each link, and the answers.""",
        (
            Column("memory_bytes", "memory of a node", "kB", 1e3),
            Column("heartbeat_node_bytes_per_s", "heartbeats, one node sends", "kB/s", 1e3),
            Column("heartbeat_bytes_per_s", "heartbeats, all nodes", "kB/s", 1e3),
        ),
    ),
)
_LINES: Final = (
    ("change_bytes", "bytes on all links", "#1668b8", "-"),
    ("change_bytes_per_link", "bytes on one link", "#1668b8", "--"),
    ("change_us", "us of CPU, all nodes", "#c4442a", "-"),
    ("change_owner_us", "us of CPU, the owner", "#c4442a", "--"),
    ("change_other_us", "us of CPU, each other node", "#c4442a", ":"),
)

Points = dict[int, mesh.Figures]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits best where both axes are logarithmic: 1 for what doubles with the nodes, 2 for
    what is four times as much."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    middle_x, middle_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    across = sum((x - middle_x) ** 2 for x, _ in logs)
    together = sum((x - middle_x) * (y - middle_y) for x, y in logs)
    return float(together / across)


def markdown(points: Points, facts: dict[str, str], settings: dict[str, Any], drawn: Sequence[str]) -> str:
    """The report."""
    parts = ["# How a cluster scales", _introduction(facts, settings)]
    for title, text, columns in TABLES:
        headings = ["nodes", *(f"{column.heading}, {column.unit}" for column in columns)]
        rows = [[str(count), *(column.text(figures) for column in columns)] for count, figures in points.items()]
        if len(points) > 1:
            slopes = (slope([(count, one[column.key]) for count, one in points.items()]) for column in columns)
            rows.append(["grows with nodes to the power of", *(f"{one:.2f}" for one in slopes)])
        parts += [f"## {title}", text, tables.table(headings, rows, left=1)]
    if drawn:
        parts += ["## Plot", *(f"![A change of the catalog]({name})" for name in drawn)]
    parts += ["## Machine", "\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
    return "\n\n".join(parts)


def _introduction(facts: dict[str, str], settings: dict[str, Any]) -> str:
    return f"""\
From `{settings["command"]}` ({settings["took"]} s), {facts["when"]}.

All nodes of a cluster are in one process: the catalog, the members and the exchange of the daemon, each linked with
every other, {mesh.SERVERS} servers on each. Messages are serialized and parsed as on a link; bytes are those of the
frames, without what TCP and IP add. CPU time is that of these parts and of the messages: what the daemon's event loop
and the system's calls need to carry them is not in it. Medians of {settings["changes"]} changes. Compare how the
figures grow, not the times: machines differ."""


@click.command(NAME, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--nodes",
    "counts",
    multiple=True,
    type=click.IntRange(2, mesh.MOST),
    metavar="N",
    help=f"Of one cluster; may be repeated.  [default: {', '.join(map(str, COUNTS))}]",
)
@click.option("--quick", is_flag=True, help="See whether it works: few changes.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help=f"Write {STEM}.md, .json and .svg there. Without it the tables go to standard output.",
)
def command(counts: tuple[int, ...], quick: bool, out: Path | None) -> int:
    """Measure what it costs that every node knows every server: a change, a node that joins, and rest.

    Progress goes to standard error.
    """
    show = Show()
    began = time.monotonic()
    facts = machine.facts()
    changes = QUICK if quick else CHANGES
    points: Points = {}
    for count in sorted(set(counts or COUNTS)):
        show.line(f"{count} nodes")
        # Each in a process of its own, which gives its memory back.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            points[count] = pool.submit(mesh.measure, count, changes).result()
    settings = {
        "command": " ".join([f"python -m {NAME}", *sys.argv[1:]]),
        "took": round(time.monotonic() - began),
        "changes": changes,
    }
    if out is None:
        click.echo(markdown(points, facts, settings, ()))
        return 0
    for path in _write(points, facts, settings, out):
        click.echo(path)
    return 0


def _write(points: Points, facts: dict[str, str], settings: dict[str, Any], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    if len(points) > 1 and plots.ready(STEM):
        drawn.append(out / f"{STEM}.svg")
        lines = [
            plots.Line(label, [(count, one[key]) for count, one in points.items()], colour, style, width=1.6)
            for key, label, colour, style in _LINES
        ]
        plots.draw(drawn[0], "A change of the catalog", "nodes", "bytes, or microseconds", lines)
    data = out / f"{STEM}.json"
    told = {"machine": facts, "settings": settings, "nodes": {str(count): one for count, one in points.items()}}
    data.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    text = out / f"{STEM}.md"
    text.write_text(markdown(points, facts, settings, [path.name for path in drawn]) + "\n", encoding="utf-8")
    return [text, data, *drawn]


def main() -> int:
    """The exit code."""
    try:
        code: int = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{NAME}: interrupted", err=True)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
