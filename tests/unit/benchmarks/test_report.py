"""The report, made of figures that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.figures import results
from benchmarks.measure.rounds import rotated
from benchmarks.peers.registry import PEERS
from benchmarks.plan import FULL
from benchmarks.report import Document, as_json, markdown, write
from benchmarks.run import Outcome, outcome_from_json
from benchmarks.stats import Reading


def latency(peer: str, p50_us: float) -> Reading:
    values = {"p50_us": p50_us, "p99_us": 2 * p50_us, "client_cpu_us": 1.0, "server_cpu_us": 3.0}
    return Reading("latency", peer, {"size": 64}, values)


@pytest.fixture
def document() -> Document:
    outcomes = [
        Outcome(
            [latency("ipcd-unix", ours), latency("grpcio-unix", 400.0)],
            missing={"ipcd-shm": "no | such wire"},
            taken={"ipcd-unix": "unix: asked for"},
        )
        for ours in (40.0, 50.0, 20.0)
    ]
    settings = {
        "command": "python -m benchmarks",
        "peers": [peer.name for peer in PEERS],
        "rounds": FULL.rounds,
        "seconds_each": 1.0,
        "took": 7,
    }
    return Document({"when": "today", "Python": "3.11"}, settings, outcomes)


def rows(text: str, label: str) -> list[list[str]]:
    """The cells of the table rows that begin with this label."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_ratios_come_before_times(document: Document) -> None:
    text = markdown(document, results([one.readings for one in document.outcomes]))
    unary, cpu, *_ = rows(text, "ipcd unix")
    assert unary[1] == "**1/10.0** (40.0 us / 80.0 us)"
    assert cpu[1] == "**1.0 x** (1.0 us + 3.0 us)"
    assert rows(text, "grpcio unix")[0][1] == "400 us / 800 us"


def test_what_is_not_to_be_had_is_told_with_the_reason(document: Document) -> None:
    text = markdown(document, results([one.readings for one in document.outcomes]))
    (peer,) = rows(text, "ipcd shm")
    assert peer[4] == "not available: no \\| such wire"
    (figure,) = rows(text, "unary 64 B, shm, p50 beside grpcio over a UNIX socket")
    assert figure[1:] == ["1/45", "-", "-", "not available: no \\| such wire"]
    (figure,) = rows(text, "unary 64 B, unix, p50 beside grpcio over a UNIX socket")
    assert figure[1:] == ["1/25", "1/10.0", "1/10.0, 1/8.0, 1/20.0", "**not met**"]


def test_a_peer_that_failed_is_the_reason_for_a_figure_without_a_value(document: Document) -> None:
    document.outcomes[1].failures["ipcd-tcp"] = ["first", "it died"]
    text = markdown(document, results([one.readings for one in document.outcomes]))
    (figure,) = rows(text, "unary 64 B, tcp through two nodes, p50 beside grpcio over TCP")
    assert figure[4] == "not available: failed: it died"
    (peer,) = rows(text, "ipcd tcp")
    assert peer[5] == "failed: first; failed: it died"


def test_groups_that_were_not_measured_have_no_table(document: Document) -> None:
    text = markdown(document, [])
    assert "## Unary calls, one after the other" in text
    assert "## Idle" not in text
    assert "## Plots" not in text


def test_what_is_written_can_be_read_again(document: Document, tmp_path: Path) -> None:
    told = results([one.readings for one in document.outcomes])
    paths = write(document, told, tmp_path)
    assert {"benchmarks.md", "benchmarks.json"} <= {path.name for path in paths}
    data = json.loads((tmp_path / "benchmarks.json").read_text())
    again = Document(data["machine"], data["settings"], [outcome_from_json(one) for one in data["runs"]])
    assert as_json(again, told) == data


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (64, "64 B"), (4096, "4 KiB"), (1500, "1500 B"), (16 << 20, "16 MiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert tables.size_text(size) == text


def test_a_cell_keeps_to_its_line() -> None:
    assert tables.table(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"
    assert tables.table(["a"], []) == ""


@pytest.mark.parametrize(("number", "order"), [(0, "abc"), (1, "bca"), (2, "cab"), (3, "abc")])
def test_every_round_begins_with_another(number: int, order: str) -> None:
    assert "".join(rotated("abc", number)) == order


def test_nobody_takes_turns() -> None:
    assert rotated([], 5) == []
