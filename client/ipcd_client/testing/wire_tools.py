"""What the contract suite does with wires again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Buffer, Frame
from ipcd_client.wire.base import Wire

W = TypeVar("W", bound=Wire)

# Seconds that nothing here may take. Far beyond what it does take: to be reached only if something hangs.
LIMIT: Final = 30.0
MAX_FRAME: Final = 2 << 20
# Smaller than what any transport takes at once.
FILLING: Final = 20_000


def soon() -> float:
    """A deadline that is not meant to be reached."""
    return time.monotonic() + LIMIT


def message(payload: Buffer, stream: int = 1, *, fds: int = 0) -> list[Buffer]:
    """A frame."""
    return codec.encode(codec.MESSAGE, stream, payload, fds=fds)


def raw(payload: Buffer, stream: int = 1) -> bytes:
    """The bytes of a frame."""
    return b"".join(message(payload, stream))


@contextmanager
def ready(wires: tuple[W, W]) -> Iterator[tuple[W, W]]:
    """Two ends, which take large frames until both are aborted."""
    for wire in wires:
        wire.max_frame = MAX_FRAME
    try:
        yield wires
    finally:
        for wire in wires:
            wire.abort()


def transfer(sender: Wire, receiver: Wire, payloads: Iterable[Buffer]) -> list[Frame]:
    """Sends a frame for each payload, numbered by its stream, and receives them: all in this thread."""
    received: list[Frame] = []
    sent = 0
    for payload in payloads:
        sent += 1
        sender.send(message(payload, sent))
        while sender.backlog > 1 << 20:
            received.append(pass_on(sender, receiver))
    while len(received) < sent:
        received.append(pass_on(sender, receiver))
    assert sender.backlog == 0
    return received


def pass_on(sender: Wire, receiver: Wire) -> Frame:
    """The next frame; what the sender has not sent of it yet is sent meanwhile."""
    deadline = soon()
    while time.monotonic() < deadline:
        if sender.backlog:
            sender.flush()
        frame = receiver.recv()
        if frame is not None:
            return frame
        receiver.poll(0.001 if sender.backlog else LIMIT)
    raise AssertionError("no frame comes")


def fill(sender: Wire) -> int:
    """Sends frames of FILLING bytes until the transport takes no more, and more than it could find room for in its
    buffers later on, as TCP does now and then. How many."""
    count = 0
    while sender.backlog < 16 << 20 or sender.poll_write(0.02):
        count += 1
        sender.send(message(bytes([count % 251]) * FILLING, count))
        assert count * FILLING < 256 << 20, "the transport takes everything"
    return count


def send_until_closed(sender: Wire) -> None:
    """Sends until the peer's end is noticed.

    Raises:
        WireClosed: always.
    """
    deadline = soon()
    while time.monotonic() < deadline:
        sender.send(message(bytes(1000)))


def violation(receiver: Wire) -> str:
    """The name of what the peer has done, which comes in place of the next frame."""
    try:
        frame = receiver.recv_by(soon())
    except ProtocolError as error:
        return error.violation
    raise AssertionError(f"{frame} came")


def drain(receiver: Wire) -> list[Frame]:
    """Receives until the end."""
    frames = []
    try:
        while True:
            frames.append(receiver.recv_by(soon()))
    except WireClosed:
        return frames


def open_fds() -> set[int]:
    """Descriptors of this process."""
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}


def asleep(pid: int) -> None:
    """The main thread of a process waits. Whether it does in the call that is meant nobody can tell from outside: it is
    what the process does next."""
    deadline = soon()
    while Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(") ")[2][0] != "S":
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Worker:
    """A thread whose result or error is looked at."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shall see it
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.join()

    def join(self) -> object:
        """What the work gave. Fails if it hangs, or has raised."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "a thread hangs"
        if self.error is not None:
            raise self.error
        return self.result
