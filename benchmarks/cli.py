"""The command: `python -m benchmarks`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import click

from benchmarks import machine, report
from benchmarks.figures import Result, results
from benchmarks.peers.registry import BY_NAME, PEERS, Peer
from benchmarks.plan import FULL, GROUPS, QUICK, Effort
from benchmarks.run import Outcome, outcome_from_json, run
from benchmarks.show import Show
from ipcd.demo.processes import StageError, ended_as_interrupted

NAME = "benchmarks"

_EPILOG = """\b
Examples:
  python -m benchmarks --quick                                  everything, in a minute
  python -m benchmarks --out docs                               what `make bench` does
  python -m benchmarks --only latency --peer ipcd-shm --peer grpcio-unix --size 64
  python -m benchmarks --check >/dev/null                       exit code 1 unless all figures are reached
  python -m benchmarks --render docs/benchmarks.json --out docs the report anew, of figures measured before

Exit codes: 0; 1, it failed, or --check found a figure that is not reached; 2, usage; 130, interrupted.
"""


@click.command(NAME, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--only", "groups", multiple=True, type=click.Choice(GROUPS), metavar="GROUP", help="Only this group.")
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice(list(BY_NAME)), metavar="NAME", help="Only this peer."
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(0, FULL.sizes[-1]),
    metavar="BYTES",
    help="Payload of the latencies; may be repeated.",
)
@click.option("--runs", type=click.IntRange(1), help="Runs, of which medians are told.  [default: 3; with --quick 1]")
@click.option("--rounds", type=click.IntRange(1), help="Turns of each peer at each point of a run.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Of one peer at one point, over all rounds.  [default: 1; with --quick 0.05]",
)
@click.option("--quick", is_flag=True, help="See whether it works: figures of a minute are worth little.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write benchmarks.md, .json and plots there. Without it the tables go to standard output.",
)
@click.option(
    "--render",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Measure nothing: take the figures of such a .json.",
)
@click.option("--check", is_flag=True, help="Exit with 1 where a figure to reach is not reached, or has no value.")
@click.option("--list", "listed", is_flag=True, help="Which groups and peers there are.")
def command(
    groups: tuple[str, ...],
    peers: tuple[str, ...],
    sizes: tuple[int, ...],
    runs: int | None,
    rounds: int | None,
    seconds: float | None,
    quick: bool,
    out: Path | None,
    render: Path | None,
    check: bool,
    listed: bool,
) -> int:
    """Measure ways of calling another process, side by side, in interleaved rounds.

    Progress goes to standard error.
    """
    if listed:
        click.echo(_listing())
        return 0
    if render is not None:
        told = json.loads(render.read_text(encoding="utf-8"))
        outcomes = [outcome_from_json(one) for one in told["runs"]]
        return _report(report.Document(told["machine"], told["settings"], outcomes), out, check)
    effort = _effort(QUICK if quick else FULL, sizes, rounds, seconds)
    chosen = [peer for peer in PEERS if not peers or peer.name in peers]
    asked = [group for group in GROUPS if not groups or group in groups]
    began = time.monotonic()
    facts = machine.facts()
    load = machine.load()
    outcomes = _measure(chosen, asked, effort, runs or (1 if quick else FULL_RUNS))
    facts["processes that wanted a CPU"] = f"{load:.2f} before, on average over a minute"
    settings = {
        # As it can be typed again.
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "groups": asked,
        "peers": [peer.name for peer in chosen],
        "took": round(time.monotonic() - began),
        "seconds_each": effort.seconds,
        **dataclasses.asdict(effort),
    }
    return _report(report.Document(facts, settings, outcomes), out, check)


FULL_RUNS = 3


def _effort(base: Effort, sizes: tuple[int, ...], rounds: int | None, seconds: float | None) -> Effort:
    return dataclasses.replace(
        base,
        sizes=tuple(dict.fromkeys(sizes)) or base.sizes,
        rounds=rounds or base.rounds,
        seconds=seconds or base.seconds,
    )


def _listing() -> str:
    width = max(map(len, BY_NAME))
    lines = ["groups:", *(f"  {group}" for group in GROUPS), "peers:"]
    return "\n".join([*lines, *(f"  {peer.name:<{width}}  {peer.label}: {peer.note}" for peer in PEERS)])


def _measure(peers: list[Peer], groups: list[str], effort: Effort, runs: int) -> list[Outcome]:
    show = Show()
    outcomes = []
    with ended_as_interrupted():
        for number in range(runs):
            show.line(f"run {number + 1} of {runs}")
            outcomes.append(run(peers, groups, effort, tell=show.line, progress=show.progress))
    return outcomes


def _report(document: report.Document, out: Path | None, check: bool) -> int:
    told = results([outcome.readings for outcome in document.outcomes])
    if out is None:
        click.echo(report.markdown(document, told))
    else:
        out.mkdir(parents=True, exist_ok=True)
        for path in report.write(document, told, out):
            click.echo(path)
    return _check(told) if check else 0


def _check(told: list[Result]) -> int:
    short = [one for one in told if one.verdict != "met"]
    for one in short:
        measured = "" if one.value is None else f": {one.figure.text(one.value)}, {one.figure.target} is to be reached"
        click.echo(f"{NAME}: {one.verdict}: {one.figure.name}{measured}", err=True)
    return 1 if short else 0


def main() -> int:
    """The exit code."""
    try:
        code: int = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except StageError as error:
        click.echo(f"{NAME}: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{NAME}: interrupted; what was started has been ended", err=True)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
