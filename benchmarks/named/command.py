"""The command `python -m benchmarks.named`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import machine
from benchmarks.named.rows import ROWS, Row
from benchmarks.named.stage import Missing, Stage, stage

NAME: Final = "benchmarks.named"
STEM: Final = "benchmarks-named"
_EPILOG = """\b
Examples:
  python -m benchmarks.named --out docs
  python -m benchmarks.named --only queue --rounds 5

Exit codes: 0; 2, usage; 130, interrupted.
"""


def measured(row: Row, where: Stage, rounds: int) -> dict[str, Any]:
    """All peers of a row in turns, `rounds` times."""
    figures: dict[str, list[float]] = {name: [] for name in row.peers}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        for name, measure in row.peers.items():
            if name in missing:
                continue
            try:
                figures[name].append(measure(where))
            except Missing as why:
                missing[name] = str(why)
    return {
        "row": row.name,
        "what": row.what,
        "unit": row.unit,
        "peers": {name: {"median": statistics.median(all_), "rounds": all_} for name, all_ in figures.items() if all_},
        "missing": missing,
    }


def table(result: dict[str, Any], *, more_is_better: bool) -> list[str]:
    """Lines of Markdown."""
    ours = result["peers"]["ipcd"]["median"]
    lines = [f"| {result['row']} | {result['unit']} | ipcd against it |", "|---|---:|---:|"]
    for name, figures in result["peers"].items():
        median = figures["median"]
        ratio = ours / median if more_is_better else median / ours
        lines.append(f"| {name} | {_number(median)} | {'' if name == 'ipcd' else f'{ratio:.2g} x'} |")
    lines += [f"| {name} | {why} | |" for name, why in result["missing"].items()]
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def report(results: list[dict[str, Any]], rounds: int, command: str) -> str:
    """The page."""
    lines = [
        "# Named things, beside what one would use otherwise",
        "",
        f"Printed by `{command}`: medians of {rounds} rounds, in each of which all of a row had their turn.",
        "A ratio above 1 says that ipcd does better. Everything on one machine, over loopback.",
        "",
    ]
    by_name = {row.name: row for row in ROWS}
    for result in results:
        lines += [f"**{result['row']}**: {result['what']}.", ""]
        lines += [*table(result, more_is_better=by_name[result["row"]].more_is_better), ""]
    lines += ["| measured on | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine.facts().items())]
    return "\n".join(lines) + "\n"


@click.command(name=NAME, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="WORD", default="", help="Rows whose name has that in it.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of each row.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help=f"Write {STEM}.md and .json there.")
def named(only: str, rounds: int, out: Path | None) -> None:
    """Measure pipes, queues, semaphores, topics and values beside the kernel's, Redis, NATS and pyzmq."""
    chosen = [row for row in ROWS if only in row.name]
    if not chosen:
        raise click.UsageError(f"no row has {only!r} in its name; there are {', '.join(row.name for row in ROWS)}")
    results = []
    with stage() as where:
        for row in chosen:
            start = time.monotonic()
            results.append(measured(row, where, rounds))
            click.echo("\n".join(table(results[-1], more_is_better=row.more_is_better)))
            click.echo(f"({time.monotonic() - start:.0f} s)\n")
    if out is not None:
        command = f"python -m {NAME} --rounds {rounds}" + (f" --only {only}" if only else "")
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{STEM}.md").write_text(report(results, rounds, command), encoding="utf-8")
        document = {"machine": machine.facts(), "results": results}
        (out / f"{STEM}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """The program; its exit code."""
    try:
        named.main(prog_name=f"python -m {NAME}", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
