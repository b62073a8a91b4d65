"""The messages of a call, from the command line, a file or standard input."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from ipcd_client.cli import jsontext
from ipcd_client.cli.failures import WrongUsage
from ipcd_client.cli.jsoncall import BadMessage, Method, Schema
from ipcd_client.cli.jsontext import BadJson, Splitter, Value

_CHUNK: Final = 64 << 10  # bytes
STDIN: Final = "-"


class Requests:
    """An iterator over the messages that the arguments stand for: JSON text, `@FILE`, or `-` for standard input.

    Texts are read at once, so that a mistake in one is found before the call. Files and standard input are read as the
    call takes them, so that they may be endless, or typed. What is wrong in them is raised in the thread that reads
    them, and ends the call; for the thread that reports it, `failure` keeps it.
    """

    def __init__(self, schema: Schema, method: Method, arguments: Sequence[str]) -> None:
        self.failure: Exception | None = None
        self._schema = schema
        self._method = method
        self._number = 0
        self._sources = [self._source(number, text) for number, text in enumerate(arguments, 1)]
        self._messages = self._all()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise

    def only(self) -> Message:
        """The one message of a method that takes one; the empty one if there are no arguments.

        Raises:
            WrongUsage: there is none, or more than one, or it is wrong.
        """
        if not self._sources:
            return self._method.request()
        found = list(islice(self, 2))
        if len(found) == 1:
            return found[0]
        given = "more were given" if found else "none was given"
        raise WrongUsage(f"{self._method.service}/{self._method.name} takes one message; {given}")

    def _source(self, number: int, text: str) -> Iterator[Message]:
        if text in {STDIN, "@-"}:
            return self._read("standard input", None)
        if text.startswith("@"):
            return self._read(text[1:], Path(text[1:]))
        name = f"argument {number}"
        with _reported():
            values = jsontext.loads(text, name)
        return iter([self._message(value, name) for value in values])

    def _all(self) -> Iterator[Message]:
        for source in self._sources:
            yield from source

    def _read(self, name: str, path: Path | None) -> Iterator[Message]:
        splitter = Splitter(name)
        with _reported():
            for text in _texts(name, path):
                for value in splitter.feed(text):
                    yield self._loaded(value, name)
            for value in splitter.finish():
                yield self._loaded(value, name)

    def _loaded(self, value: Value, name: str) -> Message:
        return self._message(jsontext.load(value, name), f"{name}, line {value.line}")

    def _message(self, value: Any, where: str) -> Message:
        self._number += 1
        try:
            return self._schema.message(self._method, value)
        except BadMessage as error:
            raise WrongUsage(f"message {self._number} ({where}): {error}") from None


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BadJson as error:
        raise WrongUsage(str(error), line=error.line, column=error.column) from None


def _texts(name: str, path: Path | None) -> Iterator[str]:
    """A file or standard input, in pieces as they arrive.

    Raises:
        WrongUsage: it cannot be read, or is not UTF-8.
    """
    # utf-8-sig: files from Windows begin with a byte order mark.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        # Not sys.stdin, whose lock a thread that waits for a key would still hold when the interpreter ends.
        descriptor = sys.stdin.fileno() if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := os.read(descriptor, _CHUNK):
                yield decoder.decode(data)
        finally:
            if path is not None:
                os.close(descriptor)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{name} is not UTF-8: {error.reason}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WrongUsage(f"cannot read {name}: {why}") from None
