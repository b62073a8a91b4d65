"""The report: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.figures import Result
from benchmarks.peers.registry import BY_NAME, Peer
from benchmarks.run import Outcome
from benchmarks.stats import Reading, medians

STEM = "benchmarks"


@dataclass(frozen=True, slots=True)
class Document:
    """All that is told: where, how, and what each run gave."""

    machine: dict[str, str]
    settings: dict[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def medians(self) -> list[Reading]:
        return medians([outcome.readings for outcome in self.outcomes])

    @property
    def peers(self) -> list[Peer]:
        return [BY_NAME[name] for name in self.settings["peers"]]

    # By peer; of several runs the last that has something to tell.
    @property
    def missing(self) -> dict[str, str]:
        return {name: why for outcome in self.outcomes for name, why in outcome.missing.items()}

    @property
    def failures(self) -> dict[str, list[str]]:
        return {name: why for outcome in self.outcomes for name, why in outcome.failures.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Why there may be no figure."""
        return {name: f"failed: {why[-1]}" for name, why in self.failures.items()} | self.missing

    @property
    def taken(self) -> dict[str, str]:
        return {name: what for outcome in self.outcomes for name, what in outcome.taken.items()}


def write(document: Document, told: Sequence[Result], directory: Path) -> list[Path]:
    """Write all of it there; the paths."""
    drawn = plots.write(document.medians, document.peers, directory, STEM)
    data = directory / f"{STEM}.json"
    data.write_text(json.dumps(as_json(document, told), indent=1) + "\n", encoding="utf-8")
    text = directory / f"{STEM}.md"
    text.write_text(markdown(document, told, [path.name for path in drawn]) + "\n", encoding="utf-8")
    return [text, data, *drawn]


def as_json(document: Document, told: Sequence[Result]) -> dict[str, Any]:
    """Everything, each run by itself."""
    return {
        "machine": document.machine,
        "settings": document.settings,
        "figures": [one.as_json() for one in told],
        "runs": [outcome.as_json() for outcome in document.outcomes],
    }


def markdown(document: Document, told: Sequence[Result], drawn: Sequence[str] = ()) -> str:
    """The whole report. Groups that were not measured are left out."""
    run, peers = document.medians, document.peers
    parts = [
        "# Benchmarks",
        _introduction(document),
        "## Figures to reach",
        tables.figures(told, document.reasons, len(document.outcomes)),
        *(
            part
            for title, table in (
                ("## Unary calls, one after the other", tables.latency(run, peers)),
                ("## CPU time of a call", tables.cpu(run, peers)),
                ("## Page faults of a call", tables.page_faults(run, peers)),
                ("## Unary calls in flight on one connection", tables.in_flight(run, peers)),
                ("## Client processes, one call in flight each", tables.processes(run, peers)),
                ("## Streamed messages", tables.streaming(run, peers)),
                ("## First call on a new channel", tables.first_call(run, peers)),
                ("## Memory of the processes", tables.memory(run, peers)),
                ("## Many callers on one server", tables.callers(run, peers)),
                ("## Idle", tables.idle(run)),
            )
            if table
            for part in (title, table)
        ),
        *([] if not drawn else ["## Plots", "\n\n".join(f"![{name}]({name})" for name in drawn)]),
        "## Peers",
        tables.peers(peers, document.missing, document.failures, document.taken),
        "## Machine",
        "\n".join(f"- {name}: {fact}" for name, fact in document.machine.items()),
    ]
    return "\n\n".join(parts)


def _introduction(document: Document) -> str:
    settings = document.settings
    runs = len(document.outcomes)
    how = (
        f"{runs} {'run' if runs == 1 else 'runs'} of {settings['rounds']} rounds, {settings['seconds_each']:g} s of"
        f" each way of calling at each point, {settings['took']} s in all"
    )
    return f"""\
From `{settings["command"]}` ({how}), {document.machine["when"]}.

Compare the ratios, not the times: machines differ. The ways of calling take turns in short rounds, so that whatever
drifts hits all alike, and only one is called at a time. `1/12` is a twelfth of the time that grpcio takes in the same
run on the same kind of socket, `12 x` twelve times its time or rate; of several runs medians are told. Every server and
every client is a process of its own. Messages are protobuf (`lab.v1.Lab/Echo`); those of the peers that are no gRPC are
plain bytes, which are neither made from objects nor parsed. Answers are checked: their content in each turn's first
call, their length in every call, outside of the time of a single call but within that of many."""
