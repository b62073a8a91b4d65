"""A run of a command as its caller sees it: what has come, what is to be sent, and how much of each. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.primitives.errors import BadRequest, Full, Lost
from ipcd_client.primitives.waiting import checked

# Bytes of one output that wait here for a reader, and of standard input that wait at the other end.
WINDOW: Final = 256 << 10
# Bytes of one message.
CHUNK: Final = 64 << 10
# Signals that wait to be sent.
_SIGNALS: Final = 64
_SIGNAL_MOST: Final = 64

STDOUT: Final = 1
STDERR: Final = 2


class Output:
    """One of its outputs: what has come of it and was not taken yet."""

    def __init__(self) -> None:
        self.size = 0
        self.ended = False
        self.closed = False  # by its reader
        self._chunks: deque[bytes] = deque()
        self._owed = 0
        self._granted = WINDOW  # and has not come

    def put(self, data: bytes) -> None:
        """This has come.

        Raises:
            Lost: it is more than was granted.
        """
        self._granted -= len(data)
        if self._granted < 0:
            raise Lost(f"the run's offerer has sent more than the {WINDOW} bytes of output that may wait here")
        if self.closed or not data:
            return
        self.size += len(data)
        self._chunks.append(data)

    def take(self, most: int) -> bytes:
        """The next of it, at most so many bytes; none if there are none now."""
        if not self._chunks:
            return b""
        data = self._chunks.popleft()
        if len(data) > most:
            self._chunks.appendleft(data[most:])
            data = data[:most]
        self.size -= len(data)
        self._owed += len(data)
        return data

    def close(self) -> None:
        """Nobody takes any more of it."""
        self.closed = True
        self.size = 0
        self._chunks.clear()

    def credit(self) -> int:
        """So much is to be granted now: not for each byte, and never too late for the other end to go on."""
        if self.ended or self.closed or self._owed < WINDOW // 4:
            return 0
        owed, self._owed = self._owed, 0
        self._granted += owed
        return owed


class Called:
    """`replied` takes what comes; `outgoing` is what is to be sent."""

    def __init__(self, request: pb.RunRequest) -> None:
        start = request.start
        start.stdout_credit = start.stderr_credit = WINDOW
        self.pid = 0
        self.returncode: int | None = None
        self.reason = ""
        self.outputs = {STDOUT: Output(), STDERR: Output()}
        self.stdin_closed = start.no_stdin  # by whoever was to read it
        self._first: pb.RunRequest | None = request
        self._stdin: deque[bytes] = deque()
        self._stdin_size = 0  # what waits to be sent
        self._stdin_credit = 0
        self._stdin_ending = False
        self._stdin_ended = start.no_stdin
        self._signals: deque[int] = deque()
        self._closing: set[int] = set()
        for number, to in ((STDOUT, start.stdout), (STDERR, start.stderr)):
            self.outputs[number].ended = to != pb.RunStart.TO_CALLER

    @property
    def over(self) -> bool:
        """It has ended, and all of its output has come."""
        return self.returncode is not None and all(output.ended or output.closed for output in self.outputs.values())

    @property
    def writable(self) -> bool:
        """Some standard input can be taken now."""
        return self._stdin_credit > 0

    def replied(self, reply: pb.RunReply) -> None:
        """This has come.

        Raises:
            Lost: it is more than the other end may send, or ask for.
        """
        what = reply.WhichOneof("what")
        if what == "stdout":
            self.outputs[STDOUT].put(reply.stdout)
        elif what == "stderr":
            self.outputs[STDERR].put(reply.stderr)
        elif what == "started":
            self.pid = reply.started.pid
            self._stdin_credit = 0
            self._grant(reply.started.stdin_credit)
        elif what == "stdin_credit":
            self._grant(reply.stdin_credit)
        elif what == "stdin_closed":
            self.stdin_closed = True
            self._stdin.clear()
            self._stdin_size = 0
        elif what == "stdout_end":
            self.outputs[STDOUT].ended = True
        elif what == "stderr_end":
            self.outputs[STDERR].ended = True
        elif what == "exit":
            self.returncode = -reply.exit.signal if reply.exit.WhichOneof("how") == "signal" else reply.exit.code
            self.reason = reply.exit.reason
            self.stdin_closed = True

    def _grant(self, more: int) -> None:
        # What is granted is taken at once, and waits here until it is sent. An offerer grants again what it has got.
        self._stdin_credit += more
        if self._stdin_credit + self._stdin_size > WINDOW:
            raise Lost(f"the run's offerer takes more than the {WINDOW} bytes of standard input that may wait")

    def write(self, data: memoryview) -> int:
        """Takes standard input, as much as there is credit for; how much that was.

        Raises:
            BrokenPipeError: nobody reads it.
        """
        if self.stdin_closed:
            raise BrokenPipeError(32, "the command reads no more of its standard input")
        size = min(len(data), self._stdin_credit, CHUNK)
        if size:
            self._stdin.append(bytes(data[:size]))
            self._stdin_credit -= size
            self._stdin_size += size
        return size

    def end_stdin(self) -> None:
        """There is no more of it."""
        self._stdin_ending = True

    def signal(self, number: int) -> None:
        """Sends it this signal.

        Raises:
            BadRequest: there is no such signal.
            Full: many wait to be sent.
        """
        if not 0 < number <= _SIGNAL_MOST:
            raise BadRequest(f"there is no signal {number}")
        if len(self._signals) >= _SIGNALS:
            raise Full(f"{_SIGNALS} signals wait to be sent")
        if self.returncode is None:
            self._signals.append(number)

    def close_output(self, number: int) -> None:
        """Nobody reads it any more."""
        output = self.outputs[number]
        if not output.closed:
            output.close()
            if not output.ended:
                self._closing.add(number)

    def outgoing(self) -> pb.RunRequest | None:
        """What is to be sent next; None if there is nothing now."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        request = pb.RunRequest(
            stdout_credit=self.outputs[STDOUT].credit(),
            stderr_credit=self.outputs[STDERR].credit(),
            stdout_close=STDOUT in self._closing,
            stderr_close=STDERR in self._closing,
        )
        self._closing.clear()
        if self._signals:
            request.signal = self._signals.popleft()
        if self._signals:
            pass  # a request has one, and what was written after all of them is not to come before one
        elif self._stdin:
            request.stdin = self._stdin.popleft()
            self._stdin_size -= len(request.stdin)
        elif self._stdin_ending and not self._stdin_ended:
            self._stdin_ended = request.stdin_end = True
        return request if request.ByteSize() else None


def started_by(
    name: str,
    args: Sequence[str],
    env: Mapping[str, str] | None,
    *,
    detach: bool,
    wait: float | None,
    stdin: bool,
    stdout: int,
    stderr: int,
) -> pb.RunRequest:
    """The request that starts a run. `stdin`: there will be some. `stdout`, `stderr`: RunStart.To.

    Raises:
        BadRequest: an argument is no text, or the time to wait makes no sense.
    """
    checked(wait)
    if isinstance(args, str | bytes):
        raise BadRequest("args is a list of texts: there is no shell that would take one apart")
    try:
        start = pb.RunStart(args=list(args), env=dict(env or {}), no_stdin=not stdin, detach=detach)
        start.stdout, start.stderr = stdout, stderr  # type: ignore[assignment]
    except (TypeError, ValueError) as error:
        raise BadRequest(f"arguments and environment are texts, and to be UTF-8: {error}") from error
    if wait is not None:
        start.wait = wait
    return pb.RunRequest(name=name, start=start)
