from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.cli.failures import Failure
from ipcd_client.cli.output import Output, clean, dumps, duration, microseconds, one_line


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 us"),
        (0.0000391, "39.1 us"),
        (0.000999, "999 us"),
        (0.0009996, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (3.021, "3.02 s"),
        (75.2, "1 min 15 s"),
        (3600 * 5 + 60 * 7, "5 h 7 min"),
        (86400 * 3 + 3600, "3 d 1 h"),
    ],
)
def test_durations_are_written_for_people(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@given(st.floats(min_value=0, max_value=1e9))
def test_no_duration_has_an_exponent(seconds: float) -> None:
    assert "e+" not in duration(seconds)


def test_microseconds_have_no_false_precision() -> None:
    assert microseconds(0.00012345678) == 123.5


@given(st.text())
def test_nothing_that_moves_a_cursor_gets_through(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable() or not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    assert "\n" not in shown


def test_control_characters_stay_visible() -> None:
    assert clean("a\x1b[2Jb\u202ec\x9bd\ne") == "a\\x1b[2Jb\\x202ec\\x9bd\ne"


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6))
def test_json_stays_the_same_json(value: object) -> None:
    text = dumps(value)
    assert json.loads(text) == value
    assert not any(0x7F <= ord(char) < 0xA0 or ord(char) < 32 for char in text)


def test_a_table_is_aligned_and_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    Output("text").table(["NAME", "PID"], [["long name", "7"], ["", "12345"], ["two\nlines", "1"]], right=[1])
    assert capsys.readouterr().out.splitlines() == [
        "NAME          PID",
        "long name       7",
        "-           12345",
        "two\\nlines      1",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", [True, False])
def test_only_a_terminal_gets_colours_and_not_with_no_color(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    Output("text").table(["NAME", "WHY"], [["[b]x[/b]", "word " * 12], ["good", ""]], colours={"good": "green"})
    shown = terminal.getvalue()
    # Bold is no colour: rich keeps it with NO_COLOR.
    assert shown.startswith("\x1b[1m")
    assert ("\x1b[32mgood" in shown) is not plain
    assert "[b]x[/b]" in shown
    # Folded to the width, with nothing lost.
    assert shown.count("word") == 12
    assert "word word word word \n" in shown


def test_errors_are_text_or_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure("no server for x\x1b", "NO_SERVER", 1, service="x")
    Output("text").failed(failure)
    Output("json").failed(failure)
    text, line = capsys.readouterr().err.splitlines()
    assert text == "ipcctl: no server for x\\x1b"
    assert json.loads(line) == {"error": "no server for x\x1b", "code": "NO_SERVER", "exit": 1, "service": "x"}


def test_remarks_are_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").remark("hello")
    Output("text").remark("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_records_are_lines_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").record({"a": 1})
    Output("text").record({"a": 1})
    assert capsys.readouterr().out == '{"a": 1}\n{\n  "a": 1\n}\n'
