"""proto/FRAME.md taken apart: its tables and its examples."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "proto" / "FRAME.md"


def text() -> str:
    """All of it."""
    return DOCUMENT.read_text(encoding="utf-8")


def tables() -> list[list[dict[str, str]]]:
    """Each table as its rows, by column. Code marks are taken off."""
    found: list[list[dict[str, str]]] = []
    columns: list[str] | None = None
    for line in text().splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if columns is None:
            columns = cells
            found.append([])
        elif not set(line) <= set("|- "):
            found[-1].append(dict(zip(columns, cells, strict=True)))
    return found


def table(*columns: str) -> list[dict[str, str]]:
    """The rows of the one table that has these columns first."""
    (rows,) = [rows for rows in tables() if rows and tuple(rows[0])[: len(columns)] == columns]
    return rows


def violations() -> set[str]:
    """The names in section 8."""
    return {row["name"] for row in table("name", "what the peer did")}


def examples() -> list[tuple[str, bytes]]:
    """What is shown in hexadecimal: its title and its bytes, in the document's order."""
    found = []
    for title, body in re.findall(r"^```hex (\w+)\n(.*?)^```", text(), re.MULTILINE | re.DOTALL):
        digits = "".join(line.partition("#")[0] for line in body.splitlines())
        found.append((title, bytes.fromhex(digits)))
    return found
