"""A program on a host of the cluster that does, one after the other, what the test tells it.

The test side is `Program`; `python -m cluster.program SOCKET` is the other end. What is done are functions of
`cluster.parts`, called there by name with the program's `Desk` as their first argument.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import grpc
from cluster.eventually import LONG

if TYPE_CHECKING:
    from cluster.parts import Desk

P = ParamSpec("P")
R = TypeVar("R")


class CallError(Exception):
    """A call of the program ended with this status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str | bytes], ...]) -> None:
        super().__init__(code, details, trailing)
        self.code = code
        self.details = details
        self.trailing = trailing


class ProgramError(Exception):
    """The program raised what is no status of a call, ended, or did not answer; the text says which."""


class Program:
    """The test's side."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
        self.name = name
        self.process = process
        self._log = log
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, function: Callable[Concatenate[Desk, P], R], *arguments: P.args, **named: P.kwargs) -> R:
        """Calls the function there.

        Raises:
            CallError: an RPC of it failed.
            ProgramError: something else did.
        """
        self.begin(function, *arguments, **named)
        return cast(R, self.result())

    def begin(self, function: Callable[Concatenate[Desk, P], Any], *arguments: P.args, **named: P.kwargs) -> None:
        """Has it called, and does not wait. `result` must follow."""
        try:
            self._stdin.write(pickle.dumps((function, arguments, named)))
            self._stdin.flush()
        except OSError:
            self._ended()

    def result(self, timeout: float = LONG) -> Any:
        """What came of it. Raises as `do` does."""
        end = time.monotonic() + timeout
        while not select.select([self._stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            if time.monotonic() >= end:
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)  # it writes where it stands to its log
                raise ProgramError(f"{self.name} has not answered for {timeout:g} s\n{self._log()}")
        try:
            done, result = pickle.load(self._stdout)
        except EOFError:
            self._ended()
        if done:
            return result
        if isinstance(result, CallError):
            raise result
        raise ProgramError(f"in {self.name}:\n{result}")

    def end(self) -> None:
        """Tells it to end, which it does after its server has."""
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass

    def close(self) -> None:
        """Lets go of an ended process."""
        self.end()
        self._stdout.close()

    def _ended(self) -> NoReturn:
        code = self.process.wait(LONG)
        raise ProgramError(f"{self.name} has ended with {code}\n{self._log()}")


def main() -> None:
    """The other end."""
    from cluster.parts import Desk

    faulthandler.register(signal.SIGUSR1)
    inbox = sys.stdin.buffer
    # What is printed goes to the log and not into the answers.
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    desk = Desk(sys.argv[1])
    while True:
        try:
            function, arguments, named = pickle.load(inbox)
        except EOFError:
            break
        try:
            answer: tuple[bool, Any] = (True, function(desk, *arguments, **named))
        except grpc.RpcError as error:
            answer = (False, CallError(error.code(), error.details(), tuple(error.trailing_metadata() or ())))
        except Exception:
            answer = (False, traceback.format_exc())
        outbox.write(pickle.dumps(answer))
        outbox.flush()
    desk.close()


if __name__ == "__main__":
    # Under the name that the test knows it by: a CallError of `__main__` would be another class there.
    from cluster import program

    program.main()
