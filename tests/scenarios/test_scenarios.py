"""Every story in this directory, with several histories of the network each. What may stand in them says
support/scenario.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import scenario
from support.scenario import ScenarioError

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    statements = scenario.read(path)
    for seed in range(40):
        scenario.play(statements, seed)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "f.txt: there is no statement"),
        ("\n# nothing\n", "f.txt: there is no statement"),
        ("a starts\n\na jumps", "f.txt:3: no statement: 'a jumps'"),
        ("a starts\ncut a-b", "f.txt:2: machine b has not been started before: 'cut a-b'"),
        ("a starts\nwait long", "f.txt:2: no statement: 'wait long'"),
    ],
)
def test_what_cannot_be_read(text: str, error: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(text, "f.txt")
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a starts\nexpect a sees s1 on a", "f.txt:2: expect a sees s1 on a: after 0.00 s, with seed 7: it sees []"),
        ("a starts\na serves s: x.X\nexpect a sees s on a as y.Y", "f.txt:3: .*: they are .*x.X"),
        (
            "a b starts\nexpect a is linked with nobody within 5\nwait 5\nexpect a is linked with nobody",
            "f.txt:4: .*'b'",
        ),
        ("a starts\na ends\na ends", "f.txt:3: a ends: after 0.00 s, with seed 7: 'a'"),
        ("a starts\na starts", "f.txt:2: .*a runs"),
        ("a b starts\nwait 5\nexpect a suspects b within 1", "f.txt:3: .*after 6.00 s"),
        ("a b starts\nwait 5\nexpect a is told nonsense", "f.txt:3: .*it is told "),
        ("a b starts\na serves s: x.X\nwait 5\ncut a-b\nwait 5\nsettle", r"f.txt:6: .*b has \[\] of a, which has \["),
    ],
)
def test_what_does_not_come_as_expected(text: str, error: str) -> None:
    statements = scenario.parse(text, "f.txt")
    with pytest.raises(ScenarioError) as caught:
        scenario.play(statements, 7)
    assert re.search(error if ".*" in error else re.escape(error), str(caught.value))
