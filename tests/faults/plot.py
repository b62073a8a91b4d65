"""Lines over time as an SVG file, by hand: it is drawn wherever the tests run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

WIDTH: Final = 900
HEIGHT: Final = 200  # of one plot
LEFT: Final = 70
RIGHT: Final = 150
TOP: Final = 30
BOTTOM: Final = 30
COLOURS: Final = ("#1668b8", "#c4442a", "#5a5a5a", "#8a6d00", "#3b7a3b", "#8a4a8a", "#3f8f8f", "#222222")

Points = Sequence[tuple[float, float]]


def draw(path: Path, plots: Mapping[str, Mapping[str, Points]], marks: Sequence[tuple[float, str]] = ()) -> None:
    """One plot below the other, each from 0 and with the same seconds. `marks`: what happened when."""
    last = max((x for lines in plots.values() for points in lines.values() for x, _ in points), default=1.0) or 1.0
    parts = []
    for number, (title, lines) in enumerate(plots.items()):
        parts += _plot(title, lines, last, number * (HEIGHT + TOP + BOTTOM) + TOP, marks)
    height = len(plots) * (HEIGHT + TOP + BOTTOM)
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    path.write_text("\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>\n"]))


def _plot(
    title: str, lines: Mapping[str, Points], last: float, top: float, marks: Sequence[tuple[float, str]]
) -> list[str]:
    most = max((y for points in lines.values() for _, y in points), default=1.0) or 1.0
    width = WIDTH - LEFT - RIGHT

    def x_of(x: float) -> float:
        return round(LEFT + x / last * width, 1)

    def y_of(y: float) -> float:
        return round(top + HEIGHT * (1 - y / (most * 1.05)), 1)

    parts = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{html.escape(title)}</text>']
    for step in range(5):
        value, at = most * step / 4, y_of(most * step / 4)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{value:,.0f}</text>')
        seconds = last * step / 4
        parts.append(f'<text x="{x_of(seconds)}" y="{top + HEIGHT + 14}" text-anchor="middle">{seconds:,.0f} s</text>')
    for when, what in marks:
        at = x_of(when)
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{top + HEIGHT - 5}" y2="{top + HEIGHT}" stroke="#c4442a">'
            f"<title>{html.escape(what)}</title></line>"
        )
    for number, (label, points) in enumerate(lines.items()):
        colour, dashes = COLOURS[number % len(COLOURS)], ' stroke-dasharray="4 2"' if number >= len(COLOURS) else ""
        path = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>')
        at = top + 10 + 14 * number
        parts.append(f'<text x="{LEFT + width + 8}" y="{at}" fill="{colour}">{html.escape(label)}</text>')
    return parts
