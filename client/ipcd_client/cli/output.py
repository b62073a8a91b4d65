"""What commands print: tables and lines for people, JSON for programs.

Text that a stranger chose (the name of a server, details of an error) is never let through to a terminal as it is:
control characters in it could move the cursor or hide what follows.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, TextIO

from ipcd_client.cli.failures import Failure

Format = Literal["text", "json"]
FORMATS: Final = ("text", "json")

# C0 but newline and tab; DEL and C1, which some terminals obey too; and what turns the direction of text around.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_GAP: Final = "  "


def clean(text: str) -> str:
    """Text with its control characters made visible; newlines and tabs stay."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def one_line(text: str) -> str:
    """The same, for a cell of a table."""
    return clean(text.replace("\n", "\\n").replace("\t", "\\t"))


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON that is safe on a terminal: as it is, but for the control characters that JSON itself lets through."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Outside strings JSON has newlines only, so what is found here is within one and may be escaped.
    return re.sub(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda match: f"\\u{ord(match.group()):04x}", text)


class Output:
    """Prints in one of two formats. Results go to standard output; errors and remarks to standard error."""

    def __init__(self, format_: Format) -> None:
        self.format = format_

    @property
    def json(self) -> bool:
        """True for programs."""
        return self.format == "json"

    def line(self, text: str = "") -> None:
        """One line of text."""
        _print(clean(text), sys.stdout)

    def document(self, value: Any) -> None:
        """The whole result as one JSON value."""
        _print(dumps(value, indent=2), sys.stdout)

    def record(self, value: Any) -> None:
        """One JSON value of several: on a line of its own for programs, spread out for people."""
        _print(dumps(value, indent=None if self.json else 2), sys.stdout)

    def table(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Sequence[int] = (),
        colours: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Aligned columns; `right` are the indices of those aligned to the right; `colours` are of whole cells by
        their text.

        On a terminal long cells are folded to its width. Elsewhere each row is one line, whatever its length, so that
        grep and awk see whole rows.
        """
        cells = [[one_line(cell) or "-" for cell in row] for row in rows]
        if sys.stdout.isatty():
            _rich_table(headings, cells, right, colours)
            return
        widths = [max(len(row[index]) for row in (headings, *cells)) for index in range(len(headings))]
        for row in (headings, *cells):
            line = _GAP.join(
                cell.rjust(width) if index in right else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            _print(line.rstrip(), sys.stdout)

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names and values, one pair a line."""
        width = max(len(name) for name, _ in pairs)
        for name, value in pairs:
            self.line(f"{_GAP}{name.ljust(width)}{_GAP}{one_line(value)}")

    def remark(self, text: str) -> None:
        """Words beside the result, for people only."""
        if not self.json:
            _print(clean(text), sys.stderr)

    def note(self, value: dict[str, Any], text: str) -> None:
        """What was asked for beside the result, on standard error."""
        _print(dumps(value) if self.json else clean(text), sys.stderr)

    def failed(self, failure: Failure) -> None:
        """An error, on standard error."""
        _print(dumps(failure.as_json()) if self.json else clean(f"ipcctl: {failure.text}"), sys.stderr)


def microseconds(seconds: float) -> float:
    """For JSON: a tenth is more than any clock here is good for."""
    return round(seconds * 1e6, 1)


def duration(seconds: float) -> str:
    """For people: three digits or so, with the unit that fits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us" if seconds * 1e6 < 999.5 else "1 ms"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds * 1e3 < 999.5 else "1 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _print(text: str, stream: TextIO) -> None:
    # Flushed, because a reader in a pipe acts on each message of a stream as it comes.
    stream.write(text + "\n")
    stream.flush()


def _rich_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], colours: Mapping[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(_GAP), 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        # Text, not str: rich would take [brackets] for markup.
        table.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)
