"""Child processes of a run: started apart from the terminal, spoken to in lines of JSON, always ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

MAX_LINE = 1 << 20  # bytes of one answer
TOLD = 2000  # bytes of a child's last words that are told when it fails


class StageError(Exception):
    """The run can't go on: a process did not start, ended or did not answer; the text says which."""


class Child:
    """One process, started at once and ended by SIGTERM; what it prints goes to a file, told when it fails.

    It is in a process group of its own: Ctrl-C on the terminal reaches the parent alone, which then ends its
    children in order.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        piped: bool = False,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                env=environment,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_running(self) -> None:
        """Raises `StageError`, with its last words, where the process has ended."""
        code = self._process.poll()
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
            raise StageError(f"{self.name} ended by itself, {how}{self._last_words()}")

    def begin_stop(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def finish_stop(self, until: float) -> None:
        """Wait for its end until then, a time of time.monotonic(), and kill it after."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TOLD))
            words = log.read().decode(errors="replace").strip()
        return f"; its last words:\n{words}" if words else ""


class Talker(Child):
    """A child that answers each line of JSON it is given with another, and ends when its input does."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, arguments, log, environment, piped=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._buffer = b""

    def say(self, command: Mapping[str, Any]) -> None:
        try:
            self._stdin.write(json.dumps(command).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            self._pipes_closed()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Its next line. Raises `StageError` where none comes within `timeout` seconds."""
        until = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise StageError(f"{self.name} has not answered for {timeout:.0f} s{self._last_words()}")
            piece = os.read(self._stdout.fileno(), 1 << 16)
            if not piece:
                self._pipes_closed()
            self._buffer += piece
            if len(self._buffer) > MAX_LINE:
                raise StageError(f"{self.name} answers with more than {MAX_LINE} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise StageError(f"{self.name} answered {line[:200]!r}") from None
        return answer

    def ask(self, command: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """One command and its answer; raises `StageError` as `answer` does, and for an error answered."""
        self.say(command)
        answer = self.answer(timeout)
        if "error" in answer:
            raise StageError(f"{self.name}: {answer['error']}")
        return answer

    def begin_stop(self) -> None:
        try:
            self._stdin.close()
        except OSError:  # what was still buffered found no reader
            pass
        self._stdout.close()

    def _pipes_closed(self) -> None:
        """Raises `StageError`: it gets a moment to end, so that the error can say how it did."""
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            raise StageError(f"{self.name} closed its pipes{self._last_words()}") from None
        self.check_running()


class Children:
    """All child processes of a run, ended together when it is over: the youngest asked first, none left."""

    GRACE = 3.0  # seconds from being asked to being killed, for all together

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        # The settings of the user's own node must not reach the nodes of a run. How long to spin is no such
        # setting: whoever sets it wants to see its effect.
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("IPCD_") or name == "IPCD_SPIN_US"
        }

    def start(self, name: str, *arguments: str) -> Child:
        """Start `python ARGUMENTS` with this interpreter."""
        child = Child(name, arguments, self._log(), self._environment)
        self._children.append(child)
        return child

    def start_talker(self, name: str, *arguments: str) -> Talker:
        """The same for one that is spoken to."""
        child = Talker(name, arguments, self._log(), self._environment)
        self._children.append(child)
        return child

    def _log(self) -> Path:
        return self._directory / f"child-{len(self._children)}.log"

    def stop(self, child: Child) -> None:
        """End one of them before the others."""
        child.begin_stop()
        child.finish_stop(time.monotonic() + self.GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        until = time.monotonic() + self.GRACE
        for child in reversed(self._children):
            child.begin_stop()
        for child in reversed(self._children):
            child.finish_stop(until)


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: by the clean-up of what was started.

    Once one of the three has come, all are ignored: the clean-up, which is bounded, is not to be cut short.
    """
    if threading.current_thread() is not threading.main_thread():  # elsewhere no handler can be set
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: object) -> NoReturn:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
