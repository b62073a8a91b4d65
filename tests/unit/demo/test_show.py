"""What is shown of a run, and how figures are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from ipcd.demo import nodes, show
from ipcd.demo.processes import Child, Talker
from ipcd.demo.roads import Road, Taken
from ipcd.demo.show import Outcome, Show, compare
from ipcd.demo.stage import Client, Stage, interleave, ratio
from ipcd.demo.timing import Summary
from ipcd.demo.work import Finding


@dataclass
class FakeTalker:
    """Stands in for a client process: what it was asked, in the order of all of them."""

    name: str
    p50_us: float
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def ask(self, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert timeout > 0
        self.asked.append((self.name, command))
        if command["do"] == "turn":
            return {"p50_us": self.p50_us}
        return {"calls": 10, "p50_us": self.p50_us, "p99_us": 2 * self.p50_us, "per_second": 1e6 / self.p50_us}


def clients(asked: list[tuple[str, dict[str, Any]]]) -> list[Client]:
    medians = {"unix": 20.0, "tcp": 50.0, "grpcio unix": 600.0, "grpcio tcp": 800.0}
    return [
        Client(
            Road(label=name, target="", caller="a" if name == "unix" else "b" if name == "tcp" else ""),
            Taken(name, f"why [{name}]"),
            1,
            cast(Talker, FakeTalker(name, p50_us, asked)),
        )
        for name, p50_us in medians.items()
    ]


def outcome(wrong: str = "") -> Outcome:
    node = nodes.Node("a", Path("a"), "127.0.0.1:1", cast(Child, None))
    playing = clients([])
    stage = Stage(nodes.NodePair(node, node, "zeroconf", 0.1), playing, [(Road("", "", transport="shm"), "not there")])
    right = Finding("unary", "a digest")
    found = {"unix": [right], "tcp": [Finding("unary", "", wrong) if wrong else right]}
    figures = {client.taken.transport: client.summary(64) for client in playing}
    return Outcome(stage, compare(found), figures, 64, 12.34)


def test_turns_are_interleaved_and_the_first_of_each_thrown_away() -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    seen: list[float] = []
    figures = interleave(clients(asked)[:3], 2, 0.1, 64, lambda _, median: seen.append(median))
    turns = [(name, command["keep"]) for name, command in asked if command["do"] == "turn"]
    assert turns == [
        ("unix", False),
        ("tcp", False),
        ("grpcio unix", False),
        ("unix", True),
        ("tcp", True),
        ("grpcio unix", True),
        ("tcp", True),
        ("grpcio unix", True),
        ("unix", True),
    ]
    assert len(seen) == 9
    assert all(command["bytes"] == 64 for _, command in asked)
    assert figures["tcp"] == Summary(10, 50.0, 100.0, 20_000.0)


def test_each_transport_is_compared_with_grpcio_on_the_same_kind_of_socket() -> None:
    figures = {
        name: Summary(1, p50, p50, 1.0)
        for name, p50 in {"shm": 5.0, "unix": 20.0, "tcp": 50.0, "grpcio unix": 600.0, "grpcio tcp": 800.0}.items()
    }
    assert ratio(figures, "shm") == 5 / 600
    assert ratio(figures, "unix") == 20 / 600
    assert ratio(figures, "tcp") == 50 / 800
    assert ratio(figures, "grpcio unix") is None
    del figures["grpcio tcp"]
    assert ratio(figures, "tcp") is None


def test_what_differs_between_transports_is_wrong() -> None:
    (one, two) = compare(
        {
            "unix": [Finding("search", "117 lines"), Finding("unary", "", wrong="UNAVAILABLE: gone")],
            "tcp": [Finding("search", "116 lines"), Finding("unary", "a digest")],
        }
    )
    assert one.right == ["unix"]
    assert one.wrong == {"tcp": "'116 lines', where the first gave '117 lines'"}
    assert two.right == ["tcp"]
    assert two.wrong == {"unix": "UNAVAILABLE: gone"}


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    Show("text").outcome(outcome())
    text = capsys.readouterr().out
    (row,) = re.findall(r".* unix .*why \[unix\].*", text)
    assert re.search(r"20 us.* 40 us.* 50,000 .* 1/30\.0 \(unix\)", row)
    assert "1/16.0 (tcp)" in text
    assert text.endswith("every result right, in 12 s\n")


def test_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Show("json")
    shown.line("a step")
    shown.outcome(outcome())
    out, err = capsys.readouterr()
    assert err == "a step\n"
    told = json.loads(out)
    assert told["ok"] is True
    assert told["transports"][0] == {
        "transport": "unix",
        "why": "why [unix]",
        "caller": "a",
        "calls": 10,
        "p50_us": 20.0,
        "p99_us": 40.0,
        "per_second": 50_000.0,
        "beside": "grpcio unix",
        "p50_ratio": 20 / 600,
    }
    assert told["left_out"] == [{"transport": "shm", "why": "not there"}]
    assert told["work"] == [{"what": "unary", "detail": "a digest", "right": ["unix", "tcp"], "wrong": {}}]


def test_a_wrong_result_is_not_overlooked(capsys: pytest.CaptureFixture[str]) -> None:
    broken = outcome(wrong="the digest is 'x', not 'y'")
    assert not broken.ok
    shown = Show("text")
    for one in broken.checked:
        shown.checked(one)
    shown.outcome(broken)
    text = capsys.readouterr().out
    assert "WRONG over tcp: the digest is 'x', not 'y'" in text
    assert text.endswith("1 of the results WRONG: see above\n")
    assert broken.as_json()["ok"] is False


def test_a_failure_is_told_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    Show("json").failed("node a [1] ended")
    out, err = capsys.readouterr()
    assert err == "ipcd demo: node a [1] ended\n"
    assert json.loads(out) == {"ok": False, "error": "node a [1] ended"}
    Show("text").failed("so it is")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("steps", [4, 10, 85])
def test_beside_a_terminal_progress_is_plain_lines(steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Show("text").progress(steps) as step:
        for number in range(steps):
            step(f"step {number}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == min(steps, 10)
    assert lines[-1] == f"measuring: 100% (step {steps - 1})"


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal: Callable[..., Any] = Console
    monkeypatch.setattr(show, "Console", lambda **kw: terminal(**kw | {"force_terminal": True, "width": 80}))
    with Show("text").progress(2) as step:
        step("half [of] it")
        step("all")
    text = capsys.readouterr().out
    assert "half [of] it" in text
    assert " 50%" in text
