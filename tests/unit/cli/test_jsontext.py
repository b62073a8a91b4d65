import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.cli import jsontext
from ipcd_client.cli.jsontext import BadJson, Splitter, Value, load, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def cut(text: str, positions: list[int]) -> list[str]:
    edges = [0, *sorted(position % (len(text) + 1) for position in positions), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


def split(pieces: list[str]) -> list[Value]:
    splitter = Splitter("test")
    values = [value for piece in pieces for value in splitter.feed(piece)]
    return values + splitter.finish()


@given(
    st.lists(VALUES, max_size=5),
    st.sampled_from([" ", "\n", "\r\n", "\n\n  "]),
    st.sampled_from([None, 2]),
    st.lists(st.integers(min_value=0), max_size=8),
)
def test_values_come_out_as_they_went_in_however_the_text_is_cut(
    values: list[object], between: str, indent: int | None, positions: list[int]
) -> None:
    text = between.join(json.dumps(value, indent=indent, ensure_ascii=False) for value in values)
    found = split(cut(text, positions))
    assert [load(value, "test") for value in found] == values
    # Positions do not depend on the pieces either.
    assert found == split([text])


@given(st.text(alphabet='{}[]",:\\ \n1tN\t-e.u0'), st.lists(st.integers(min_value=0), max_size=6))
def test_any_text_gives_values_or_one_named_error_however_it_is_cut(text: str, positions: list[int]) -> None:
    def outcome(pieces: list[str]) -> object:
        try:
            return [load(value, "test") for value in split(pieces)]
        except BadJson as error:
            return str(error)

    assert repr(outcome(cut(text, positions))) == repr(outcome([text]))


def test_values_need_no_separator() -> None:
    assert loads('{"a":1}{"b":2}[3]"four"5 true null', "test") == [{"a": 1}, {"b": 2}, [3], "four", 5, True, None]


def test_brackets_in_strings_do_not_count() -> None:
    assert loads('{"a": "}\\"]{"} 1', "test") == [{"a": '}"]{'}, 1]


def test_a_value_is_known_as_soon_as_it_ends() -> None:
    splitter = Splitter("test")
    assert splitter.feed('{"a": ') == []
    assert [value.text for value in splitter.feed('1}{"b"')] == ['{"a": 1}']
    assert [value.text for value in splitter.feed(":2}")] == ['{"b":2}']


def test_a_bare_number_waits_for_what_follows() -> None:
    splitter = Splitter("test")
    assert splitter.feed("12") == []
    assert splitter.feed("3") == []
    assert [value.text for value in splitter.feed("\n")] == ["123"]


def test_positions_count_from_one() -> None:
    assert split(['{}\n  {"a":\n1} []']) == [Value("{}", 1, 1), Value('{"a":\n1}', 2, 3), Value("[]", 3, 4)]


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ('{"a" 1}', 1, 6, "expecting ':' delimiter"),
        ('{"a": 1}\n{"b": 2,\n "c": x}', 3, 7, "expecting value"),
        ("{}\n  }", 2, 3, "expecting value"),
        ('{}\n {"a": "b', 2, 2, "the value that begins here is not complete"),
        ('{"a": 1, "a": 2}', 1, 1, "the key 'a' is twice in one object"),
        ('{}\n {"a": ' + "1" * 5000 + "}", 2, 2, "a number of too many digits"),
        ("[" * 300, 1, 1, "the value that begins here is nested over 200 deep"),
    ],
)
def test_errors_say_where(text: str, line: int, column: int, why: str) -> None:
    with pytest.raises(BadJson) as caught:
        loads(text, "standard input")
    assert (caught.value.line, caught.value.column) == (line, column)
    # The words are Python's own here, and differ a little between its versions.
    assert caught.value.why.startswith(why)
    assert str(caught.value).startswith(f"bad JSON in standard input, line {line} column {column}: ")


def test_errors_show_the_place() -> None:
    with pytest.raises(BadJson) as caught:
        loads('{"data"\t"x"}', "argument 1")
    assert str(caught.value).splitlines()[1:] == ['  {"data" "x"}', "          ^"]


def test_a_long_line_is_shown_around_the_place() -> None:
    with pytest.raises(BadJson) as caught:
        loads(json.dumps({"a": "x" * 1000})[:-1] + " oops}", "argument 1")
    _, shown, mark = str(caught.value).splitlines()
    assert shown[len(mark) - 1 :] == "oops}"
    assert len(shown) < 80


def test_a_value_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsontext, "MAX_CHARS", 100)
    with pytest.raises(BadJson, match="line 2 column 1: a value longer than 100 characters begins here"):
        split(["{}\n", '{"a": "' + "x" * 60, "x" * 60])
