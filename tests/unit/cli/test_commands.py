"""The command line as such: options, usage, help. No daemon."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client import __version__
from ipcd_client.cli.call import Pair
from ipcd_client.cli.ping import Tally, percentile
from ipcd_client.cli.program import root, run
from ipcd_client.cli.session import Pins, Seconds, Session, common, pass_session, pinned

COMMANDS = [
    *("ls", "nodes", "explain", "call", "ping", "doctor", "rules", "expose", "sem", "lock", "value"),
    *("cert", "completion"),
]
COMMANDS = ["ls", "nodes", "explain", "call", "ping", "queue", "doctor", "rules", "expose", "cert", "completion"]
COMMANDS = ["ls", "nodes", "explain", "call", "ping", "doctor", "rules", "expose", "command", "cert", "completion"]
# Those that ask a daemon.
ASKING = [command for command in COMMANDS if command not in {"rules", "command", "cert", "completion"}]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPCD_SOCKET", "/nonexistent/ipcd.sock")


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(root, [*arguments, "--help"], prog_name="ipcctl")
    assert result.exit_code == 0
    return result.output


def test_the_help_lists_all_commands_in_the_order_of_use() -> None:
    listed = [line.split()[0] for line in shown().partition("Commands:\n")[2].split("\n\n")[0].splitlines()]
    assert listed == COMMANDS
    assert "Exit codes: 0; 1 the answer is no; 2 usage; 3 no daemon; 4 the call failed; 130 interrupted." in " ".join(
        shown().split()
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples(command: str) -> None:
    assert f"  ipcctl {command}" in shown(command).partition("Examples:\n")[2].replace('eval "$(', "  ")


@pytest.mark.parametrize("command", ASKING)
def test_every_command_takes_the_options_of_the_group(command: str) -> None:
    for option in ("-s, --socket PATH", "-o, --output [text|json]", "--timeout SECONDS", "-h, --help"):
        assert option in shown(command)
        assert option in shown()


def examples() -> Iterator[list[str]]:
    for command in ("", *ASKING):
        for line in shown(*command.split()).partition("Examples:\n")[2].split("\n\n")[0].splitlines():
            # Beyond two spaces there are remarks, beyond a bar other programs.
            text = line.strip().split("   ")[0].split(" | ")[0]
            yield shlex.split(text)[1:]


@pytest.mark.parametrize("arguments", list(examples()), ids=" ".join)
def test_every_example_parses(arguments: list[str], tmp_path: Path) -> None:
    # To the doctor, that there is no daemon is an answer.
    # The rules are a file's, which is not there either.
    assert run([*arguments, "-s", str(tmp_path / "none.sock")]) == {"doctor": 1, "rules": 2}.get(arguments[0], 3)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"ipcctl {__version__}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert capsys.readouterr().out.startswith("Usage: ipcctl [OPTIONS]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lss"], "there is no command 'lss' (did you mean 'ls'?)"),
        (["ls", "--nope"], "No such option"),
        (["explain"], "Missing argument 'SERVICE'"),
        (["explain", "x", "--transport", "udp"], "'udp' is not one of"),
        (["--timeout", "0", "ls"], "'0' is not a positive number of seconds"),
        (["ls", "--timeout", "nan"], "'nan' is not a positive number of seconds"),
        (["ping", "x", "-i", "-1"], "'-1' is not a number of seconds"),
        (["call", "a.B/C", "-m", "x"], "'x' is not KEY=VALUE"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["cert", "isue"], "there is no command 'isue' (did you mean 'issue'?)"),
        (["cert", "issue"], "Missing argument 'NODE...'"),
        (["cert", "issue", "a", "--days", "0"], "0 is not in the range 1<=x<=3650"),
        (["cert", "show"], "Missing argument 'FILE...'"),
        (["rules", "check"], "Missing argument 'FILE'"),
        (["rules", "check", "f", "x.X", "--as", "uid:1", "--may", "eat"], "'eat' is not one of"),
    ],
)
def test_wrong_usage_is_told_in_either_format(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in " ".join(captured.err.split())
    assert captured.err.startswith("Usage: ipcctl")
    assert captured.out == ""
    assert run(["-o", "json", *arguments]) == 2
    assert '"code": "USAGE", "exit": 2' in capsys.readouterr().err


@pytest.mark.parametrize("json", [["-o", "json"], ["-ojson"], ["--output", "json"], ["--output=json"]])
def test_an_error_before_the_options_are_parsed_is_in_their_format(
    json: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ls", "--nope", *json]) == 2
    assert capsys.readouterr().err.startswith('{"error": "No such option')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Session(None, "text", None)),
        (["-s", "/x", "-o", "json", "--timeout", "2", "probe"], Session("/x", "json", 2.0)),
        (["-s", "/x", "--timeout", "2", "probe", "-s", "/y", "-o", "json"], Session("/y", "json", 2.0)),
    ],
)
def test_a_command_is_stronger_than_the_group(arguments: list[str], expected: Session) -> None:
    seen: list[tuple[Session, Pins]] = []

    @click.group()
    @common
    def group() -> None:
        pass

    @group.command()
    @pinned
    @common
    @pass_session
    def probe(session: Session, pins: Pins) -> None:
        seen.append((session, pins))

    result = CliRunner().invoke(group, [*arguments, *([] if arguments else ["probe"]), "--node", "b"])
    assert result.exit_code == 0, result.output
    assert seen == [(expected, Pins(node="b"))]


@given(st.text())
def test_seconds_are_numbers_above_zero_or_an_error(text: str) -> None:
    try:
        seconds = Seconds().convert(text, None, None)
    except click.BadParameter:
        return
    assert 0 < seconds < math.inf


@pytest.mark.parametrize(
    ("text", "expected"),
    [("k=v", ("k", "v")), ("k=", ("k", "")), ("k=a=b", ("k", "a=b")), ("k-bin=AAE=", ("k-bin", b"\0\1"))],
)
def test_metadata(text: str, expected: tuple[str, str | bytes]) -> None:
    assert Pair().convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["k", "=v", "K=v", "k k=v", "k-bin=%", "k=\n", "k=\u00e9", "grpc-timeout=1"])
def test_metadata_that_grpc_would_refuse_is_refused_here(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Pair().convert(text, None, None)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300))
def test_percentile_is_the_smallest_that_covers_the_part(numbers: list[int]) -> None:
    ordered = sorted(float(number) for number in numbers)
    found = percentile(ordered, 0.99)
    assert sum(number <= found for number in ordered) >= 0.99 * len(ordered)
    below = [number for number in ordered if number < found]
    assert len(below) < 0.99 * len(ordered)


def test_a_tally_counts_answers_and_failures_apart() -> None:
    tally = Tally({"service": "x"})
    assert tally.as_json()["avg_us"] is None
    for seconds in (0.001, 0.003):
        tally.add(seconds)
    tally.fail("late")
    assert tally.as_json() == {
        "service": "x",
        "sent": 3,
        "answered": 2,
        "min_us": 1000.0,
        "avg_us": 2000.0,
        "p99_us": 3000.0,
        "max_us": 3000.0,
        "last_error": "late",
    }


def test_what_is_not_needed_is_not_imported() -> None:
    heavy = ("rich", "zeroconf", "cryptography", "ipcd")
    code = f"import sys, ipcd_client.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
