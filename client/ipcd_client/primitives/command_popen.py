"""`subprocess.Popen` for a command that another process runs."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO, Any, Final, Self

from ipcd_client.errors import IpcdError
from ipcd_client.primitives.command_call import RunCall
from ipcd_client.primitives.command_place import descriptor_of, write_all
from ipcd_client.primitives.command_state import CHUNK, STDERR, STDOUT, Called

# Seconds for which `close` waits for what is still to be written to files.
_PATIENCE: Final = 1.0


class _Input(io.RawIOBase):
    """Standard input of a run."""

    def __init__(self, call: RunCall) -> None:
        self._call = call

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        view = memoryview(data).cast("B")
        if not view:
            return 0
        return int(self._call.until(lambda called: called.write(view)))

    def close(self) -> None:
        if not self.closed:
            self._call.act(Called.end_stdin)
            super().close()


class _Output(io.RawIOBase):
    """One of its outputs."""

    def __init__(self, call: RunCall, number: int) -> None:
        self._call = call
        self._number = number
        self.quiet = False  # reads nothing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        view = memoryview(buffer).cast("B")
        if self.quiet:
            return None
        data = read(self._call, self._number, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._call.act(lambda called: called.close_output(self._number))
            super().close()


def read(call: RunCall, number: int, most: int) -> bytes:
    """What there is of an output, once there is something; none at its end."""

    def some(called: Called) -> bytes | bool:
        output = called.outputs[number]
        # The end is something too, and empty.
        return output.take(most) or output.ended or output.closed

    result = call.until(some)
    return b"" if result is True else result


class Popen:
    """A run of a command, with what `subprocess.Popen` has. `with` waits for its end, as there.

    `args` is the command's name and the arguments that were added; `pid` that of the offerer's machine. Signals go to
    the whole process group: to the command, and to what it has started. `returncode` is the exit code, or the negative
    of the signal; `reason` says why the offerer ended it, if it did.

    The streams have no descriptor: they work with everything but `select`. Where the run is lost, because the offerer
    or its host is, what waits raises `CallFailed` or `Lost`.
    """

    def __init__(
        self,
        call: RunCall,
        args: Sequence[str],
        stdin: Any,
        stdout: Any,
        stderr: Any,
        *,
        text: bool,
        encoding: str | None,
        errors: str | None,
    ) -> None:
        self.args = list(args)
        self._lock = threading.Lock()
        self._call = call
        self._copies: list[threading.Thread] = []
        # The descriptors that are copied from, and to; by the output.
        self._source: int | None = None
        self._sinks: dict[int, int] = {}
        self._stopping = -1  # our end of a pipe, whose end ends the thread that copies from a file
        self._collected: dict[int, list[bytes]] = {}
        self._given: memoryview | None = None
        self._text = text or encoding is not None or errors is not None
        self._encoding = encoding
        self._errors = errors
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        if stdin == subprocess.PIPE:
            self.stdin = self._wrapped(io.BufferedWriter(_Input(call), CHUNK), write_through=True)
        else:
            self._source = descriptor_of(stdin, None)
        for number, value in ((STDOUT, stdout), (STDERR, stderr)):
            if value == subprocess.PIPE:
                file = self._wrapped(io.BufferedReader(_Output(call, number), CHUNK))
                if number == STDOUT:
                    self.stdout = file
                else:
                    self.stderr = file
            elif (sink := descriptor_of(value, number)) is not None:
                self._sinks[number] = sink

    def _wrapped(self, file: Any, **keywords: Any) -> IO[Any]:
        if not self._text:
            return file  # type: ignore[no-any-return]
        return io.TextIOWrapper(file, encoding=self._encoding, errors=self._errors, **keywords)

    # -- subprocess.Popen -------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the process, on the offerer's machine."""
        return self._call.pid

    @property
    def returncode(self) -> int | None:
        """As of the last `poll`, `wait` or `communicate`, or now; None while it runs."""
        try:
            return self._call.poll()
        except IpcdError:
            return None

    @property
    def reason(self) -> str:
        """Why the offerer ended it; empty where it did not."""
        return self._call.reason

    def poll(self) -> int | None:
        """The return code; None while it runs.

        Raises:
            Lost, CallFailed: nobody knows how it ended: its offerer has.
        """
        return self._call.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended, and what goes to files has been written. The return code.

        Raises:
            subprocess.TimeoutExpired: not within so many seconds.
            Lost, CallFailed: nobody knows how it ended: its offerer has.
        """
        limit = None if timeout is None else monotonic() + timeout
        try:
            self._call.until(lambda called: called.returncode is not None, timeout)
        except TimeoutError as error:
            if isinstance(error, IpcdError):
                raise
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        self._end_copies(limit, timeout)
        code = self._call.poll()
        assert code is not None
        return code

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """Gives it `input`, reads until its outputs end, and waits for it. After a time-out it can be called again, and
        nothing is lost.

        Raises:
            subprocess.TimeoutExpired: not within so many seconds.
            Lost, CallFailed: its offerer has ended.
        """
        limit = None if timeout is None else monotonic() + timeout
        if self.stdin is not None and self._given is None:
            if isinstance(input, str):
                input = input.encode(self._encoding or "utf-8", self._errors or "strict")  # noqa: A001
            if input or not self.stdin.closed:
                with suppress(BrokenPipeError):
                    self.stdin.flush()
            self._given = memoryview(input or b"").cast("B")
        files = {number: file for number, file in ((STDOUT, self.stdout), (STDERR, self.stderr)) if file is not None}
        for number, file in files.items():
            if number not in self._collected:
                self._collected[number] = [_buffered(file)]
        try:
            while self._call.until(lambda called: self._exchanged(called, files), _left(limit)) != "over":
                pass
        except TimeoutError as error:
            if isinstance(error, IpcdError):
                raise
            raise subprocess.TimeoutExpired(self.args, timeout or 0, *self._got(files)) from None
        if self.stdin is not None:
            with suppress(BrokenPipeError):
                self.stdin.close()
        self.wait(_left(limit))
        out, err = self._got(files)
        for file in files.values():
            file.close()
        return out, err

    def _exchanged(self, called: Called, files: Any) -> str:
        """One step of `communicate`: empty if there was nothing to do."""
        done = ""
        if self._given is not None:
            try:
                size = called.write(self._given) if self._given else 0
            except BrokenPipeError:
                self._given, done = memoryview(b""), "wrote"
            else:
                self._given = self._given[size:]
                done = "wrote" if size else ""
            if not self._given:
                called.end_stdin()
        for number in files:
            while data := called.outputs[number].take(CHUNK):
                self._collected[number].append(data)
                done = "read"
        if called.returncode is not None and all(
            called.outputs[number].ended or called.outputs[number].closed for number in files
        ):
            return "over"
        return done

    def _got(self, files: Any) -> tuple[Any, Any]:
        both: list[Any] = []
        for number in (STDOUT, STDERR):
            data = b"".join(self._collected[number]) if number in files else None
            if data is not None and self._text:
                text = data.decode(self._encoding or "utf-8", self._errors or "strict")
                both.append(text.replace("\r\n", "\n").replace("\r", "\n"))
            else:
                both.append(data)
        return both[0], both[1]

    def send_signal(self, number: int) -> None:
        """Sends it to the command's process group; nothing happens if it has ended."""
        self._call.act(lambda called: called.signal(int(number)))

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Ends the run, where it has not ended, unless it was started with `detach`: that one goes on."""
        self._call.cancel()
        with suppress(subprocess.TimeoutExpired):
            # One may hang in a write to a file that nobody reads, for as long as that lasts.
            self._end_copies(monotonic() + _PATIENCE, None)
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with suppress(OSError, IpcdError):
                    file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        try:
            if self.stdin is not None:
                with suppress(BrokenPipeError):
                    self.stdin.close()
            if kind is None:
                self.wait()
        finally:
            self.close()

    def __del__(self) -> None:
        call: RunCall | None = getattr(self, "_call", None)
        # At the interpreter's end, threads that will never run again may hold any lock: the process's end says it all.
        if call is not None and not sys.is_finalizing():
            call.abandon()
            self._end_input()

    # -- copying ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Copies to and from files, from now on."""
        if self._source is not None:
            stop, self._stopping = os.pipe2(os.O_CLOEXEC)
            try:
                self._copy(self._copy_in, stop, self._source)
            except BaseException:
                os.close(stop)
                self._end_input()
                raise
        for number, sink in self._sinks.items():
            self._copy(self._copy_out, number, sink)

    def _copy(self, copy: Callable[..., None], *args: int) -> None:
        # Without a reference to this: it would never be collected.
        thread = threading.Thread(target=copy, args=(self._call, *args), name="ipcd-command", daemon=True)
        thread.start()
        self._copies.append(thread)

    @staticmethod
    def _copy_in(call: RunCall, stop: int, fd: int) -> None:
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        with suppress(PermissionError):
            poll.register(fd, select.POLLIN)
        try:
            while not any(ready == stop for ready, _ in poll.poll()):
                data = memoryview(os.read(fd, CHUNK))
                if not data:
                    break
                while data:
                    view = data
                    data = data[call.until(lambda called: called.write(view)) :]  # noqa: B023  used at once
        except (OSError, IpcdError):
            pass
        finally:
            os.close(stop)
        with suppress(OSError, IpcdError):
            call.act(Called.end_stdin)

    @staticmethod
    def _copy_out(call: RunCall, number: int, fd: int) -> None:
        try:
            while data := read(call, number, CHUNK):
                write_all(fd, data)
        except (OSError, IpcdError):
            call.act(lambda called: called.close_output(number))

    def _end_input(self) -> None:
        with self._lock:
            stopping, self._stopping = self._stopping, -1
        if stopping >= 0:
            os.close(stopping)

    def _end_copies(self, limit: float | None, timeout: float | None) -> None:
        self._end_input()
        for thread in filter(threading.Thread.is_alive, self._copies):
            thread.join(_left(limit))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)


def _left(limit: float | None) -> float | None:
    return None if limit is None else max(0.0, limit - monotonic())


def _buffered(file: Any) -> bytes:
    """What a reader has read ahead."""
    buffer = getattr(file, "buffer", file)
    buffer.raw.quiet = True
    try:
        return bytes(buffer.read1(CHUNK) or b"")
    finally:
        buffer.raw.quiet = False
