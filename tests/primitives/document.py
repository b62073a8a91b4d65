"""The table at the end of docs/primitives.md, as its tests read it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

DOCUMENT: Final = Path(__file__).parents[2] / "docs/primitives.md"
HEADING: Final = "## Beside the kernel's"


class Cell(NamedTuple):
    """What the table says of one property of one mechanism."""

    mechanism: str
    property: str
    said: bool

    def __str__(self) -> str:
        return f"{self.mechanism}: {self.property}"


def cells() -> list[Cell]:
    """All of it."""
    lines = [line for line in DOCUMENT.read_text().partition(HEADING)[2].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    properties = rows[0][1:]
    words = {"yes": True, "no": False}
    return [Cell(row[0], name, words[text]) for row in rows[2:] for name, text in zip(properties, row[1:], strict=True)]
