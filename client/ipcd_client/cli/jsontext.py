"""JSON values out of text that arrives in pieces, and what to tell a person where it is no JSON.

Pure: text in, values out. A stream of values needs no separator but what JSON itself needs, so one value a line
(JSON Lines), values that span lines, and values back to back are all the same here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

# Bounds on one value. Messages are bounded by far less; these only keep a wrong file from eating the memory.
MAX_CHARS: Final = 128 << 20
# Deeper than protobuf's own limit for messages (100), and well within what Python's json can recurse.
MAX_DEPTH: Final = 200

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NESTED: Final = re.compile(r'["{}\[\]]')
_STRING: Final = re.compile(r'["\\]')
_BARE_END: Final = re.compile(r'[ \t\r\n"{\[]')
# Characters of the offending line shown on either side of an error.
_EXCERPT: Final = 36


class BadJson(ValueError):
    """The text is not JSON. `line` and `column` count from 1, in the whole text of `source`."""

    def __init__(self, source: str, line: int, column: int, why: str, excerpt: str = "") -> None:
        where = f"{source}, line {line} column {column}"
        super().__init__(f"bad JSON in {where}: {why}" + (f"\n{excerpt}" if excerpt else ""))
        self.source = source
        self.line = line
        self.column = column
        self.why = why


class Value(NamedTuple):
    """The text of one value, and where it begins, both counted from 1."""

    text: str
    line: int
    column: int


class Splitter:
    """Finds where values end, without parsing them: they are `load`ed one by one, so that a bad one is found when its
    turn comes and the good ones before it are not lost.

    `source` is what errors call the text, such as "standard input".
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._line = 1
        self._column = 1
        self._parts: list[str] = []  # of the value that has begun
        self._chars = 0
        self._begin = (1, 1)
        self._state: Callable[[str, int], tuple[int, bool]] = self._between
        self._depth = 0

    def feed(self, text: str) -> list[Value]:
        """The values that end in `text`. A bare number ends only with what follows it.

        Raises:
            BadJson: a value passes the bounds of this module.
        """
        values: list[Value] = []
        position = 0
        while position < len(text):
            end, complete = self._state(text, position)
            if self._parts or complete or self._state != self._between:
                self._parts.append(text[position:end])
                self._chars += end - position
                if self._chars > MAX_CHARS:
                    raise BadJson(self.source, *self._begin, f"a value longer than {MAX_CHARS} characters begins here")
            self._advance(text, position, end)
            position = end
            if complete:
                values.append(self._take())
        return values

    def finish(self) -> list[Value]:
        """The last value, where only the end of the text ends it.

        Raises:
            BadJson: the text ends inside a value.
        """
        if self._state == self._between:
            return []
        if self._state == self._bare:
            return [self._take()]
        raise BadJson(self.source, *self._begin, "the value that begins here is not complete")

    # Each state looks at text from a position and says up to where the text is dealt with, and whether a value ends
    # there.

    def _between(self, text: str, position: int) -> tuple[int, bool]:
        match = _SPACE.match(text, position)
        start = match.end() if match else position
        if start > position or start == len(text):
            return start, False
        self._begin = (self._line, self._column)
        first = text[start]
        if first in "{[":
            self._depth = 1
            self._state = self._nested
        elif first == '"':
            self._state = self._string
        else:
            self._state = self._bare
        return start + 1, False

    def _nested(self, text: str, position: int) -> tuple[int, bool]:
        match = _NESTED.search(text, position)
        if match is None:
            return len(text), False
        found = match.group()
        if found == '"':
            self._state = self._string
        elif found in "{[":
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise BadJson(self.source, *self._begin, f"the value that begins here is nested over {MAX_DEPTH} deep")
        else:
            self._depth -= 1
        return match.end(), not self._depth

    def _string(self, text: str, position: int) -> tuple[int, bool]:
        match = _STRING.search(text, position)
        if match is None:
            return len(text), False
        if match.group() == "\\":
            self._state = self._escaped
            return match.end(), False
        self._state = self._nested
        return match.end(), not self._depth

    def _escaped(self, _: str, position: int) -> tuple[int, bool]:
        self._state = self._string
        return position + 1, False

    def _bare(self, text: str, position: int) -> tuple[int, bool]:
        match = _BARE_END.search(text, position)
        return (len(text), False) if match is None else (match.start(), True)

    def _take(self) -> Value:
        value = Value("".join(self._parts), *self._begin)
        self._parts.clear()
        self._chars = self._depth = 0
        self._state = self._between
        return value

    def _advance(self, text: str, begin: int, end: int) -> None:
        lines = text.count("\n", begin, end)
        if lines:
            self._line += lines
            self._column = end - text.rfind("\n", begin, end)
        else:
            self._column += end - begin


def load(value: Value, source: str) -> Any:
    """What the value's text means.

    Raises:
        BadJson: it is no JSON, or has the same key twice in one object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise BadJson(source, value.line, value.column, f"the key {twice!r} is twice in one object")
        return made

    try:
        return json.loads(value.text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        line = value.line + error.lineno - 1
        column = error.colno + (value.column - 1 if error.lineno == 1 else 0)
        raise BadJson(source, line, column, _lowered(error.msg), _excerpt(value.text, error.pos)) from None
    except BadJson:
        raise
    except ValueError:
        # All else that there is: a number of more digits than Python converts.
        raise BadJson(source, value.line, value.column, "a number of too many digits") from None


def loads(text: str, source: str) -> list[Any]:
    """All the values of a text.

    Raises:
        BadJson: as `Splitter` and `load` do.
    """
    splitter = Splitter(source)
    return [load(value, source) for value in [*splitter.feed(text), *splitter.finish()]]


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _excerpt(text: str, position: int) -> str:
    """The line around a position, and a mark below it."""
    begin = max(text.rfind("\n", 0, position) + 1, position - _EXCERPT)
    end = text.find("\n", position)
    end = min(len(text) if end < 0 else end, position + _EXCERPT)
    # Tabs and control characters would put the mark in the wrong place.
    shown = "".join(char if char.isprintable() else " " for char in text[begin:end])
    return f"  {shown}\n  {' ' * (position - begin)}^"
