"""A program that runs while something is held."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Protocol

from ipcd_client.cli.failures import CALL_FAILED, Failure
from ipcd_client.cli.output import Output

# As shells have them.
NOT_RUNNABLE: Final = 126
NOT_FOUND: Final = 127
BY_SIGNAL: Final = 128
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Held(Protocol):
    """What is held."""

    def on_lost(self, callback: Callable[[Exception], object]) -> object:
        """Calls it when that is not held any more; at once if it is not."""

    def release(self) -> None:
        """Gives it back.

        Raises:
            Lost: it was not held any more.
        """


def run_holding(
    output: Output, held: Held, command: Sequence[str], environment: Mapping[str, str], grace: float
) -> int:
    """Runs it, and gives back what is held once it has ended; its exit code. If that is lost before, it is ended:
    SIGTERM, and SIGKILL `grace` seconds later."""
    from ipcd_client.primitives.errors import Lost

    libc = ctypes.CDLL(None)

    def with_us() -> None:
        # Nobody would end it, and it would go on without what it is to hold.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        with _signals() as forward:
            try:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **environment},
                    preexec_fn=with_us,  # noqa: PLW1509  one call of the system, looked up before
                )
            except OSError as error:
                code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE
                raise Failure(f"{command[0]}: {error.strerror}", "NOT_RUN", code) from None
            forward(process)
            ended = threading.Event()

            def end(error: Exception) -> None:
                # On a thread of its own: the one that hears of it may have others to tell.
                threading.Thread(target=_end, args=(output, process, error, grace, ended), daemon=True).start()

            held.on_lost(end)
            code = process.wait()
            ended.set()
    finally:
        try:
            held.release()
        except Lost:
            pass  # it was told
    return code if code >= 0 else BY_SIGNAL - code


def _end(output: Output, process: subprocess.Popen[bytes], error: Exception, grace: float, ended: Any) -> None:
    failure = Failure(f"lost, and the program is ended: {error}", "LOST", CALL_FAILED)
    output.failed(failure)
    process.terminate()
    if not ended.wait(grace):
        process.kill()


@contextmanager
def _signals() -> Iterator[Any]:
    """SIGTERM and SIGHUP go to the program, before it is there to it as soon as it is. The terminal sends it SIGINT
    itself."""
    started: list[subprocess.Popen[bytes]] = []
    came: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if started:
            started[0].send_signal(number)
        else:
            came.append(number)

    def forward(process: subprocess.Popen[bytes]) -> None:
        started.append(process)
        for number in came:
            process.send_signal(number)

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        """Not ignored: the program would inherit that."""

    handlers = {signal.SIGTERM: on_signal, signal.SIGHUP: on_signal, signal.SIGINT: on_interrupt}
    before: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
