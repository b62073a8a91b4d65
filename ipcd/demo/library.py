"""What the demo's service does, apart from any RPC: digests, searches and sessions over a directory of files.

Nothing here knows of a channel or a context. A refusal is a `LabError`, whose class carries the status code
that the servicer answers with. Every read, list and result is bounded by a constant of this module.

What is not bounded is the time that one regular expression takes on one line: Python's `re` can neither be
interrupted nor given a budget. The service is meant for callers of its own user, who gain nothing by that.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import posixpath
import re
import shlex
import stat
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import ClassVar

import grpc

# Below gRPC's usual limit of 4 MiB a message, so that this limit is the one that is met.
MAX_UNARY_BYTES = 3 << 20
MAX_STREAM_BYTES = 64 << 20
MAX_FILE_BYTES = 2 << 20
MAX_PATTERN = 200  # characters
MAX_TEXT = 200  # characters of a line that are given back
MAX_COMMAND = 1000  # characters
MAX_MATCHES = 10_000
DEFAULT_MATCHES = 1000
MAX_LISTED = 1000  # replies to one command of a session
MAX_REQUESTS = 1000  # commands in one session

ALGORITHMS = tuple(sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_")))

# Below the standard library's directory, but no part of it: installed packages and compiled copies.
_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


class LabError(Exception):
    """A request that is refused; `code` is the status it is answered with and the text says why.

    LabError
    ├── InvalidRequestError   INVALID_ARGUMENT: the request can never succeed
    ├── NoSuchFileError       NOT_FOUND: nothing readable by that name
    └── OverLimitError        RESOURCE_EXHAUSTED: more than a limit of this module
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InvalidRequestError(LabError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NoSuchFileError(LabError):
    code = grpc.StatusCode.NOT_FOUND


class OverLimitError(LabError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str
    hex: str
    size: int  # bytes digested


class Digester:
    """The digest of bytes that come in pieces, at most `limit` of them.

    Raises `InvalidRequestError` for an algorithm that is not one of `ALGORITHMS`.
    """

    def __init__(self, algorithm: str = "", limit: int = MAX_STREAM_BYTES) -> None:
        self._algorithm = algorithm or "sha256"
        if self._algorithm not in ALGORITHMS:
            raise InvalidRequestError(f"no algorithm {self._algorithm[:40]!r}; there are {', '.join(ALGORITHMS)}")
        self._hash = hashlib.new(self._algorithm, usedforsecurity=False)
        self._limit = limit
        self._size = 0

    def update(self, data: bytes) -> None:
        """Take the next piece. Raises `OverLimitError` once more than `limit` bytes have come."""
        self._size += len(data)
        if self._size > self._limit:
            raise OverLimitError(f"{self._size} bytes are over the limit of {self._limit}")
        self._hash.update(data)

    def result(self) -> Digest:
        return Digest(self._algorithm, self._hash.hexdigest(), self._size)


def digest(data: bytes, algorithm: str = "", limit: int = MAX_UNARY_BYTES) -> Digest:
    """The digest of `data`; raises as `Digester` does."""
    digester = Digester(algorithm, limit)
    digester.update(data)
    return digester.result()


@dataclass(frozen=True, slots=True)
class Hit:
    file: str
    line: int  # counted from 1
    text: str  # at most MAX_TEXT characters


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Raises `InvalidRequestError`, naming the position, where `pattern` is no regular expression."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequestError(f"a pattern of {len(pattern)} characters is over the limit of {MAX_PATTERN}")
    try:
        return re.compile(pattern)
    except re.error as error:
        place = "position unknown" if error.pos is None else f"position {error.pos}"
        raise InvalidRequestError(f"bad pattern at {place}: {error.msg}") from None
    except (OverflowError, RecursionError) as error:  # `a{99999999999}`; some hundred nested groups
        raise InvalidRequestError(f"bad pattern, position unknown: {error}") from None


def always() -> bool:
    return True


class Library:
    """The files below one directory, by default the running Python's standard library.

    Files are named by their path below it, with `/`. Symbolic links are not followed in lists, and not out of
    the directory when named.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root if root is not None else sysconfig.get_path("stdlib")).resolve()

    def read(self, file: str, directory: str = "") -> bytes:
        """The bytes of `file`, seen from `directory`.

        Raises `InvalidRequestError` for a path out of the library, `NoSuchFileError` for none, a directory or
        an unreadable file, `OverLimitError` for one over MAX_FILE_BYTES.
        """
        name = self.name_of(file, directory)
        path = self._real(name)
        try:
            # Not to block on a FIFO that somebody has put there; what is opened is looked at before it is read.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise NoSuchFileError(f"{name or '.'} is no file")
                with os.fdopen(descriptor, "rb", closefd=False) as opened:
                    data = opened.read(MAX_FILE_BYTES + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NoSuchFileError(f"{name}: {error.strerror}") from None
        if len(data) > MAX_FILE_BYTES:
            raise OverLimitError(f"{name} is over the limit of {MAX_FILE_BYTES} bytes")
        return data

    def stat(self, file: str, directory: str = "") -> os.stat_result:
        """Raises as `read` does, but for size and kind."""
        name = self.name_of(file, directory)
        try:
            return self._real(name).stat()
        except OSError as error:
            raise NoSuchFileError(f"{name}: {error.strerror}") from None

    def name_of(self, path: str, directory: str = "") -> str:
        """`path`, seen from `directory`, as a path below the root; "" is the root.

        Raises `InvalidRequestError` where it leads out.
        """
        name = posixpath.normpath(posixpath.join(directory, path))
        if "\0" in name or name.startswith("/") or name.split("/")[0] == "..":
            raise InvalidRequestError(f"{path[:MAX_TEXT]!r} leads out of the standard library")
        if _NOT_THE_LIBRARY.intersection(name.split("/")):
            raise InvalidRequestError(f"{path[:MAX_TEXT]!r} is no part of the standard library")
        return "" if name == "." else name

    def is_directory(self, name: str) -> bool:
        try:
            return self._real(name).is_dir()
        except OSError:  # a name too long, up to Python 3.13
            return False

    def _real(self, name: str) -> Path:
        """Where `name` is; raises `InvalidRequestError` where a symbolic link leads out of the root."""
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError):  # a loop of links
            raise NoSuchFileError(f"{name}: too many symbolic links") from None
        if not path.is_relative_to(self.root):
            raise InvalidRequestError(f"{name!r} leads out of the standard library")
        return path

    def files(self, glob: str = "") -> Iterator[str]:
        """The files that `glob` (default "*.py") matches: a directory's own by name, then its directories'.

        `**` may stand once, for any number of directories. Raises `InvalidRequestError` at once, not at the
        first file.
        """
        glob = glob or "*.py"
        if len(glob) > MAX_PATTERN:
            raise InvalidRequestError(f"a glob of {len(glob)} characters is over the limit of {MAX_PATTERN}")
        parts = glob.split("/")
        if "\0" in glob or glob.startswith("/") or ".." in parts:
            raise InvalidRequestError(f"{glob!r} leads out of the standard library")
        if parts.count("**") > 1 or parts[-1] in ("**", ""):
            raise InvalidRequestError(f"{glob!r}: `**` may stand once, and a file's name must end the glob")
        return self._expand("", [part for part in parts if part not in ("", ".")])

    def _expand(self, directory: str, parts: list[str]) -> Iterator[str]:
        names, directories = self._entries(directory)
        first, rest = parts[0], parts[1:]
        if first == "**":
            yield from self._expand(directory, rest)
            for name in directories:
                yield from self._expand(posixpath.join(directory, name), parts)
        elif rest:
            for name in fnmatch.filter(directories, first):
                yield from self._expand(posixpath.join(directory, name), rest)
        else:
            for name in fnmatch.filter(names, first):
                yield posixpath.join(directory, name)

    def _entries(self, directory: str) -> tuple[list[str], list[str]]:
        """Names of the files and of the directories in `directory`, each in order."""
        files: list[str] = []
        directories: list[str] = []
        try:
            with os.scandir(self.root / directory) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False) and entry.name not in _NOT_THE_LIBRARY:
                        directories.append(entry.name)
        except OSError as error:
            raise NoSuchFileError(f"{directory or '.'}: {error.strerror}") from None
        return sorted(files), sorted(directories)

    def entries(self, directory: str, pattern: str) -> Iterator[str]:
        """What of `directory` matches `pattern`: its directories (ending in `/`) and files, each in order."""
        files, directories = self._entries(directory)
        yield from (f"{name}/" for name in fnmatch.filter(directories, pattern))
        yield from fnmatch.filter(files, pattern)

    def search(
        self, pattern: str, glob: str = "", limit: int = 0, active: Callable[[], bool] = always
    ) -> Iterator[Hit]:
        """The lines of the files of `glob` in which `pattern` is found, at most `limit` (0: DEFAULT_MATCHES).

        `active` is asked before each file; once it says no, the search ends. Files that can't be read or are
        over the limit are passed over. Raises `InvalidRequestError` at once, not at the first hit.
        """
        if limit > MAX_MATCHES:
            raise InvalidRequestError(f"a limit of {limit} matches is over the limit of {MAX_MATCHES}")
        expression = compile_pattern(pattern)
        return islice(self._search(expression, self.files(glob), active), limit or DEFAULT_MATCHES)

    def _search(self, expression: re.Pattern[str], files: Iterator[str], active: Callable[[], bool]) -> Iterator[Hit]:
        for file in files:
            if not active():
                return
            try:
                data = self.read(file)
            except LabError:
                continue
            yield from _hits(expression, file, data)


def _without_end(line: str) -> str:
    return line.removesuffix("\n")


def _hits(expression: re.Pattern[str], file: str, data: bytes) -> Iterator[Hit]:
    # Not str.splitlines: it would also end lines at form feeds, and the numbers would not be an editor's.
    lines = io.StringIO(data.decode("utf-8", "replace"), newline=None)
    for number, line in enumerate(map(_without_end, lines), 1):
        if expression.search(line):
            yield Hit(file, number, line[:MAX_TEXT])


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    last: bool = False
    error: str = ""


class Session:
    """One interactive session: commands in, replies out; it keeps the current directory."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._directory = ""
        self._requests = 0
        self.ended = False
        self._commands: dict[str, tuple[int, int, Callable[..., Iterator[str]]]] = {
            "cd": (1, 1, self._cd),
            "ls": (0, 1, self._ls),
            "stat": (1, 1, self._stat),
            "grep": (2, 2, self._grep),
            "digest": (1, 1, self._digest),
            "quit": (0, 0, self._quit),
        }

    def answer(self, line: str) -> Iterator[Reply]:
        """The replies to one command, the last of them marked; a refusal is such a last reply.

        Raises `OverLimitError` for a command past MAX_REQUESTS: that ends the session.
        """
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise OverLimitError(f"a session takes at most {MAX_REQUESTS} requests")
        return self._answer(line)

    def _answer(self, line: str) -> Iterator[Reply]:
        try:
            texts = self._run(line)
            text = next(texts)
            for following in texts:
                yield Reply(text)
                text = following
            yield Reply(text, last=True)
        except LabError as error:
            yield Reply("", last=True, error=str(error))

    def _run(self, line: str) -> Iterator[str]:
        if len(line) > MAX_COMMAND:
            raise OverLimitError(f"a command of {len(line)} characters is over the limit of {MAX_COMMAND}")
        try:
            name, *arguments = shlex.split(line) or [""]
        except ValueError as error:
            raise InvalidRequestError(f"can't split the command: {error}") from None
        least, most, command = self._commands.get(name, (0, 0, None))
        if command is None:
            raise InvalidRequestError(f"no command {name[:40]!r}; there are {', '.join(self._commands)}")
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            raise InvalidRequestError(f"{name} takes {wanted} arguments, not {len(arguments)}")
        return command(*arguments)

    # Each command yields its lines; the last one sums them up, so that there is always one.

    def _cd(self, path: str) -> Iterator[str]:
        name = self._library.name_of(path, self._directory)
        if not self._library.is_directory(name):
            raise NoSuchFileError(f"{name} is no directory")
        self._directory = name
        yield name or "."

    def _ls(self, pattern: str = "*") -> Iterator[str]:
        count = 0
        for name in islice(self._library.entries(self._directory, pattern), MAX_LISTED):
            count += 1
            yield name
        yield f"{count} entries"

    def _stat(self, file: str) -> Iterator[str]:
        status = self._library.stat(file, self._directory)
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        yield f"{stat.filemode(status.st_mode)} {status.st_size} bytes, changed {changed}"

    def _grep(self, pattern: str, file: str) -> Iterator[str]:
        expression = compile_pattern(pattern)
        data = self._library.read(file, self._directory)
        count = 0
        for hit in islice(_hits(expression, file, data), MAX_LISTED):
            count += 1
            yield f"{hit.line}:{hit.text}"
        yield f"{count} matches"

    def _digest(self, file: str) -> Iterator[str]:
        found = digest(self._library.read(file, self._directory))
        yield f"{found.algorithm} {found.hex} {found.size} bytes"

    def _quit(self) -> Iterator[str]:
        self.ended = True
        yield "bye"
