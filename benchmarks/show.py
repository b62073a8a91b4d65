"""What is seen of a run while it lasts: on standard error only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.measure.rounds import Step


class Show:
    """Lines, and a bar for each group where there is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, name: str, steps: int) -> Iterator[Step]:
        """How far a group has come."""
        if not self._console.is_terminal:
            self.line(f"{name}: {steps} turns")
            yield lambda _told: None
            return
        bar = Progress(
            TextColumn("{task.fields[group]:<12}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            # No thread that repaints by itself: it would run beside what is measured.
            auto_refresh=False,
        )
        with bar:
            task = bar.add_task("", total=steps, group=name)

            def step(told: str) -> None:
                bar.update(task, advance=1, description=told, refresh=True)

            yield step
            bar.update(task, description="", refresh=True)
