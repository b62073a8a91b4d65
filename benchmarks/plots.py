"""The plots: latency by size, throughput by concurrency, and other lines. Without matplotlib there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.registry import Peer
from benchmarks.stats import Run, best, select

_COLOURS = {"ipcd": "#1668b8", "grpc": "#c4442a"}  # by how a label begins; what is neither is gray
_OTHERS = ("#5a5a5a", "#8a6d00", "#3b7a3b", "#8a4a8a", "#3f8f8f")
_STYLES = {"shm": "-", "unix": "--", "tcp": ":"}


@dataclass(frozen=True, slots=True)
class Line:
    """What a line looks like, and where it goes."""

    label: str
    points: Sequence[tuple[int, float]]
    colour: str
    style: str = "-"
    width: float = 1.2
    marker: str = "o"
    alpha: float = 1.0


def ready(stem: str) -> bool:
    """Whether there can be plots. `stem`: of the files, which are the same each time for the same figures."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    # For files only; and text as text, ids the same each time: small, and the same figures give the same file.
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": stem, "font.size": 9})
    return True


def write(run: Run, peers: Sequence[Peer], directory: Path, stem: str) -> list[Path]:
    """Those for which there are figures; their paths."""
    if not ready(stem):
        return []
    drawn = []
    for name, title, x_label, y_label, lines in (
        ("latency", "Unary call, p50", "bytes of payload", "microseconds", _latency(run, peers)),
        ("in-flight", "Unary calls of 64 B on one connection", "in flight", "calls/s", _in_flight(run, peers)),
        ("processes", "Unary calls of 64 B", "client processes", "calls/s", _processes(run, peers)),
    ):
        if any(len(points) > 1 for _, points in lines):
            path = directory / f"{stem}-{name}.svg"
            draw(path, title, x_label, y_label, _styled(lines))
            drawn.append(path)
    return drawn


Lines = list[tuple[Peer, list[tuple[int, float]]]]


def _latency(run: Run, peers: Sequence[Peer]) -> Lines:
    return [
        (peer, sorted((int(one.at["size"]), one.values["p50_us"]) for one in select(run, "latency", peer.name)))
        for peer in peers
    ]


def _in_flight(run: Run, peers: Sequence[Peer]) -> Lines:
    counts = sorted({int(one.at["in_flight"]) for one in select(run, "throughput")})
    lines = []
    for peer in peers:
        found = ((count, best(run, "calls_per_s", "throughput", peer.name, in_flight=count)) for count in counts)
        lines.append((peer, [(count, one.values["calls_per_s"]) for count, one in found if one is not None]))
    return lines


def _processes(run: Run, peers: Sequence[Peer]) -> Lines:
    return [
        (
            peer,
            sorted(
                (int(one.at["processes"]), one.values["calls_per_s"]) for one in select(run, "processes", peer.name)
            ),
        )
        for peer in peers
    ]


def _styled(lines: Lines) -> list[Line]:
    styled = []
    others = iter(_OTHERS * 3)
    for peer, points in lines:
        if points:
            ours = next((colour for name, colour in _COLOURS.items() if peer.label.startswith(name)), None)
            styled.append(
                Line(
                    peer.label,
                    points,
                    ours or next(others),
                    style=_STYLES[peer.socket] if ours else "-",
                    width=2 if peer.ours else 1.2,
                    marker="s" if peer.aio else "o",
                    alpha=0.6 if peer.aio else 1,
                )
            )
    return styled


def draw(path: Path, title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> None:
    """Draws lines over one another, both axes logarithmic. Only where `ready`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    figure: Any = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        axes.plot(
            *zip(*line.points, strict=True),
            label=line.label,
            color=line.colour,
            linestyle=line.style,
            linewidth=line.width,
            marker=line.marker,
            markersize=3.5,
            alpha=line.alpha,
        )
    ticks = {x for line in lines for x, _ in line.points}
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.set_xticks(sorted(ticks), [_tick(x) for x in sorted(ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    # Without the date: what is drawn is all that makes one file differ from another.
    figure.savefig(path, metadata={"Date": None})


def _tick(x: int) -> str:
    for unit, name in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if x >= unit and x % unit == 0:
            return f"{x // unit} {name}"
    return str(x)
