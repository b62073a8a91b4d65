"""What `ipcd demo` shows: lines and a progress bar for people, one JSON object for programs."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ipcd.demo.roads import BESIDE
from ipcd.demo.stage import Stage, ratio
from ipcd.demo.timing import Summary, ratio_text
from ipcd.demo.work import Finding

Output = Literal["text", "json"]
Step = Callable[[str], None]  # one step of the progress is done; what it gave


@dataclass(frozen=True, slots=True)
class Checked:
    """One kind of work over all transports."""

    what: str
    detail: str
    right: list[str]  # transports
    wrong: dict[str, str]  # by transport: what came instead


def compare(found: dict[str, list[Finding]]) -> list[Checked]:
    """Findings by transport turned into findings by kind; what differs from the first right one is wrong."""
    checked = []
    for rows in zip(*found.values(), strict=True):
        detail = next((row.detail for row in rows if not row.wrong), "")
        one = Checked(rows[0].what, detail, [], {})
        for transport, row in zip(found, rows, strict=True):
            if row.wrong or row.detail != detail:
                one.wrong[transport] = row.wrong or f"{row.detail!r}, where the first gave {detail!r}"
            else:
                one.right.append(transport)
        checked.append(one)
    return checked


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run that came to its end gave."""

    stage: Stage
    checked: list[Checked]
    figures: dict[str, Summary]  # by transport
    size: int  # bytes of an echo's payload
    seconds: float  # the whole run

    @property
    def ok(self) -> bool:
        return not any(one.wrong for one in self.checked)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "python": platform.python_version(),
            "found_by": self.stage.pair.how,
            "work": [asdict(one) for one in self.checked],
            "payload_bytes": self.size,
            "transports": [
                {
                    "transport": client.taken.transport,
                    "why": client.taken.why,
                    "caller": client.road.caller or None,
                    **asdict(self.figures[client.taken.transport]),
                    "beside": BESIDE.get(client.taken.transport),
                    "p50_ratio": ratio(self.figures, client.taken.transport),
                }
                for client in self.stage.clients
            ],
            "left_out": [{"transport": road.transport, "why": why} for road, why in self.stage.left_out],
        }

    def as_table(self) -> Table:
        table = Table(title=f"unary echo of {self.size} B, one call after the other", title_justify="left")
        table.add_column("transport", no_wrap=True)
        table.add_column("why it was picked")
        for heading in ("p50", "p99", "calls/s", "p50 to grpcio's"):
            table.add_column(heading, justify="right", no_wrap=True)
        for client in self.stage.clients:
            transport = client.taken.transport
            figures, part = self.figures[transport], ratio(self.figures, transport)
            table.add_row(
                transport,
                Text(client.taken.why),  # no markup: the reason is the daemon's, and may hold brackets
                f"{figures.p50_us:,.0f} us",
                f"{figures.p99_us:,.0f} us",
                f"{figures.per_second:,.0f}",
                "" if part is None else f"{ratio_text(part)} ({BESIDE[transport].removeprefix('grpcio ')})",
            )
        return table


class Show:
    """With "json", one object on standard output at the end; all else then goes to standard error."""

    def __init__(self, output: Output) -> None:
        self._json = output == "json"
        stream = sys.stderr if self._json else sys.stdout
        # Where nobody has a terminal's width, one wide enough that few reasons are broken.
        self._console = Console(file=stream, highlight=False, width=None if stream.isatty() else 120)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def checked(self, one: Checked) -> None:
        self.line(f"{one.what}: {one.detail or 'no right answer'}")
        if one.right:
            self.line(f"    right over {', '.join(one.right)}")
        for transport, text in one.wrong.items():
            self.line(f"    WRONG over {transport}: {text}")

    @contextmanager
    def progress(self, steps: int) -> Iterator[Step]:
        """A bar on a terminal; elsewhere a line for every tenth part."""
        if not self._console.is_terminal:
            yield _tenths(self.line, steps)
            return
        bar = Progress(
            TextColumn("measuring"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            # No thread that repaints by itself: it would run beside what is measured.
            auto_refresh=False,
        )
        with bar:
            task = bar.add_task("", total=steps)

            def step(text: str) -> None:
                bar.update(task, advance=1, description=text, refresh=True)

            yield step

    def outcome(self, outcome: Outcome) -> None:
        if self._json:
            self._object(outcome.as_json())
            return
        self._console.print(outcome.as_table())
        if outcome.ok:
            self.line(f"every result right, in {outcome.seconds:.0f} s")
        else:
            count = sum(len(one.wrong) for one in outcome.checked)
            self.line(f"{count} of the results WRONG: see above")

    def _object(self, value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")

    def failed(self, why: str) -> None:
        """The run could not come to its end."""
        Console(stderr=True, highlight=False).print(f"ipcd demo: {why}", markup=False, soft_wrap=True)
        if self._json:
            self._object({"ok": False, "error": why})


def _tenths(line: Callable[[str], None], steps: int) -> Step:
    done = 0

    def step(text: str) -> None:
        nonlocal done
        before, done = done * 10 // steps, done + 1
        if done * 10 // steps > before:
            line(f"measuring: {done * 100 // steps}% ({text})")

    return step
