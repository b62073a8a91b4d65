"""What looks for mistakes finds those that are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz import corpus, drawing, engines
from fuzz.mutation import Mutator
from fuzz.registry import TARGETS, Finding, Target, run
from fuzz.script import Script, blocks
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


class Refused(Exception):
    pass


def fragile(data: bytes) -> object:
    """Breaks on what lies two steps away from the corpus."""
    if data[:1] != b"a":
        raise Refused("it begins with another letter")
    if data[1:2] == b"b":
        raise KeyError(data[2:])
    return len(data)


FRAGILE = Target("fragile", fragile, st.binary(max_size=4), (Refused,), (b"a", b"b"), 16)


def test_what_may_be_raised_is_an_outcome_and_the_rest_is_found() -> None:
    assert run(FRAGILE, b"x") == "Refused: it begins with another letter"
    with pytest.raises(Finding, match="KeyError") as caught:
        run(FRAGILE, b"ab")
    assert caught.value.data == b"ab"
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_same_input_gives_the_same() -> None:
    count = iter(range(10))
    forgetful = Target("forgetful", lambda data: next(count), st.binary(), (), (), 16)
    with pytest.raises(Finding, match="the first time 0, then 1"):
        run(forgetful, b"")


def test_chance_finds_it_and_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    found = [engines.by_chance(FRAGILE, inputs=20_000, seed=3, directory=tmp_path) for _ in range(2)]
    crashes = [each.crash for each in found]
    assert crashes[0] is not None
    assert crashes[1] is not None
    assert crashes[0].data[:2] == b"ab"
    assert (crashes[0].data, found[0].inputs) == (crashes[1].data, found[1].inputs)
    assert found[0].new


def test_the_corpus_is_small_and_replayed(tmp_path: Path) -> None:
    sorts = {"Refused: it begins with another letter": b"xyz", "": b"aZZZ"}
    assert corpus.keep(FRAGILE, sorts, lambda data: run(FRAGILE, data, twice=False), tmp_path) == 2
    assert sorted(corpus.kept(FRAGILE, tmp_path)) == [b"", b"a"]
    assert corpus.keep(FRAGILE, sorts, lambda data: run(FRAGILE, data, twice=False), tmp_path) == 0
    assert len(engines.replay(FRAGILE, tmp_path)) == 2


def test_inputs_are_bounded() -> None:
    mutator = Mutator(Random(1), (b"word",), 16)
    made = {mutator.of([b"", b"0123456789abcdef"]) for _ in range(2000)}
    assert max(map(len, made)) == 16
    assert len(made) > 500
    assert all(len(data) <= 4 for data in drawing.some(FRAGILE.inputs, Random(1), 50))


def test_a_script_ends_in_zeros() -> None:
    script = Script(blocks(b"ab", b"") + b"\x07")
    assert (script.block(), script.block(), script.number(), script.number(4), bool(script)) == (
        b"ab",
        b"",
        7,
        0,
        False,
    )
    assert Script(b"\x05").pick("abc") == "c"


def test_the_command_says_what_it_did() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "preamble", "hello", "--inputs", "300"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("preamble ")
    assert second.startswith("hello ")
    assert " 300 inputs" in first
    assert " 0 crashes, RSS " in first


def test_a_finding_is_written_to_a_file(tmp_path: Path) -> None:
    program = (
        "import sys; from fuzz import registry; from hypothesis import strategies as st\n"
        "registry.target('broken', st.binary())(lambda data: 1 / len(data))\n"
        "sys.argv[1:] = ['broken', '--inputs', '100', '--crashes', sys.argv[1]]\n"
        "from fuzz.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT / "tests", capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 crashes" in done.stdout
    assert "ZeroDivisionError" in done.stdout
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b""


def test_every_target_has_a_name_that_is_a_directory() -> None:
    assert all(name.replace("-", "").isalnum() for name in TARGETS)
