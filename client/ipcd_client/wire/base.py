"""What every wire is: an ordered, reliable, bounded, closable pipe of frames between two processes.

The contract, which `ipcd_client.testing.wire_contract` tests on every kind:

- Frames arrive in order, each whole or not at all.
- Nothing blocks but `poll`, `poll_write` and `close`, and each takes a timeout. The GIL is free meanwhile.
- `send` keeps what the transport does not take at once; `backlog` says how much, so that the sender can bound
  it. The buffers must not change before `backlog` is back at 0.
- The peer's end or death makes the wire readable and `recv` raise `WireClosed`, after the last whole frame.
- `close` sends the backlog first, `abort` does not. Both may be called more than once.
- `fileno` may be watched by epoll or an event loop: readable when `recv` may make progress.

Beside that there are shortcuts, for the way of a plain unary call, where each system call and each Python call counts.
A kind may have them or not, and whoever does not take them misses nothing:

- `peek` is `poll(0)` at its cheapest, to spin on: every kind has it.
- `drained` saves the `recv` that would only find nothing.
- `glance` gives the bytes that have come, so that the most frequent frame is judged as a whole; what turns out to be
  anything else is given to `put_back`, and `recv` goes on as if nobody had looked.
- `quick` takes a frame at once, past the queue, while there is none.

One thread at a time may be in recv, glance, take_fds and poll, and one at a time in send, flush and close; the two may
be different threads. Everything else, above all shutdown and abort, is for any thread at any time.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Protocol

from ipcd_client.errors import WireClosed, WireTimeout
from ipcd_client.frame.codec import Buffer, Frame
from ipcd_client.wire.fds import Fd

# There is nothing to poll for the transport's having delivered; in seconds.
_SETTLE_SLICE: Final = 0.002


class Quick(Protocol):
    """The shortest way out of a wire."""

    total: int  # the wire's `sent`, while nothing else is queued

    def put(self, data: bytes) -> int:
        """Sends a frame: its size; or nothing at all: 0, and `send` is to be asked."""


class Wire(abc.ABC):
    """One end."""

    kind: str
    # The ends have settled what `kind` says; where it is not what was hoped for, `why_not` says why.
    agreed: bool = True
    why_not: str = ""
    # Seconds between two calls of `check`; None where it has nothing to do.
    check_every: ClassVar[float | None] = None
    # Bytes that `send` was given and the transport has not taken.
    backlog: int = 0
    closed: bool = False
    # It uses more memory than it does at rest: `shrink` gives that back.
    grown: bool = False
    # The frame that `recv` gave was the last that is here: `poll` before asking again, to save a system call.
    drained: bool = False
    # Called with 0. Not empty if `recv` may make progress, or the wire was closed.
    peek: Callable[[int], list[Any]]
    # Where one small whole frame may go at once, instead of to `send`; None while there is more to see to.
    quick: Quick | None = None

    @abc.abstractmethod
    def fileno(self) -> int:
        """For epoll and event loops. -1 once closed."""

    @property
    @abc.abstractmethod
    def max_frame(self) -> int:
        """Largest payload that is received, in bytes."""

    @max_frame.setter
    @abc.abstractmethod
    def max_frame(self, size: int) -> None: ...

    @abc.abstractmethod
    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        """Sends whole frames, laid out as in FRAME.md. True if nothing is left in the backlog.

        `fds` travel with the first buffer and are owned by the wire from here on.

        Raises:
            WireClosed: this end is closed, or the peer is.
        """

    @abc.abstractmethod
    def flush(self) -> bool:
        """Sends what it can of the backlog. True if nothing is left.

        Raises:
            WireClosed: this end is closed, or the peer is.
        """

    @abc.abstractmethod
    def recv(self) -> Frame | None:
        """The next frame; None when `poll` should be asked first.

        Raises:
            WireClosed: there are no more.
            ProtocolError: what came is not a frame.
        """

    def glance(self) -> bytes | None:
        """What has arrived, raw, if nothing was held from before: most often just one frame. To be given to `put_back`
        unless it was. None where `recv` is to be asked, also of an end or an error."""
        return None

    def put_back(self, data: bytes) -> None:
        """`recv` decodes what `glance` gave."""
        raise NotImplementedError

    @abc.abstractmethod
    def take_fds(self, count: int) -> list[Fd]:
        """The next `count` descriptors that came, owned by the caller. To be called right after the `recv` that gave
        the frame which names them.

        Raises:
            ProtocolError: fewer came than the frame says.
        """

    @abc.abstractmethod
    def poll(self, timeout: float | None, *, write: bool = False, also: int = -1) -> bool:
        """Waits at most `timeout` seconds (None: for ever) until `recv`, or with `write` also `flush`, may
        make progress, or the descriptor `also` is readable. 0 is quick enough to spin on. Only for the
        thread that calls `recv`."""

    @abc.abstractmethod
    def poll_write(self, timeout: float | None) -> bool:
        """Waits until `flush` may make progress. For any thread."""

    def check(self) -> None:  # noqa: B027 - most transports do say so
        """Ends the wire if the peer's host does not answer, where the transport itself would not say so for long.
        `poll` does this while it waits; who waits with epoll calls it as `check_every` says. For any thread."""

    @abc.abstractmethod
    def shutdown(self) -> None:
        """Ends both directions and wakes whoever polls; the descriptor stays open until `abort`. For any
        thread."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Closes this process's copy only: for a forked child, whose parent goes on with the connection."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Closes at once; what is in the backlog is lost."""

    @abc.abstractmethod
    def peer(self) -> str:
        """The other end in words, for error texts."""

    def hung_up(self) -> bool:
        """The peer has closed the connection, although there may be more of what it sent, or this end has. Where the
        transport can tell that without reading."""
        return False

    def unread_fds(self) -> int:
        """Descriptors that were given to be sent, and that the peer may not have taken yet. The system counts those in
        flight for their sender, and has a limit of them. 0 once closed."""
        return 0

    @property
    def sent(self) -> int:
        """Bytes that were ever given to be sent, where the transport can tell what became of them; see `untaken`."""
        return 0

    def untaken(self) -> int:
        """How many of the bytes sent last the peer has certainly never seen. Only for when it has closed: what was in
        them may be sent again, to another."""
        return 0

    def shrink(self) -> bool:
        """Gives memory back that was not used since this was called last. True while there is more. Only for the
        thread that may call `send`."""
        return False

    def settled(self) -> bool:
        """What the transport has taken reaches the peer even if this end closes now."""
        return True

    def close(self, timeout: float = 1.0) -> None:
        """Sends the backlog, for at most `timeout` seconds, and closes."""
        deadline = time.monotonic() + timeout
        try:
            while not self.closed and self.backlog and not self.flush():
                left = deadline - time.monotonic()
                if left <= 0 or not self.poll_write(left):
                    break
            while not self.closed and not self.settled() and time.monotonic() < deadline:
                time.sleep(_SETTLE_SLICE)
        except WireClosed:
            pass  # nobody is left to send it to
        finally:
            self.abort()

    # -- blocking forms, for handshakes and tests: the connection drivers do their own waiting -----

    def send_by(self, buffers: Sequence[Buffer], deadline: float, fds: Sequence[Fd] = ()) -> None:
        """Sends and waits until all is sent. `deadline` as of time.monotonic().

        Raises:
            WireTimeout: the deadline passed first.
        """
        done = self.send(buffers, fds)
        while not done:
            left = deadline - time.monotonic()
            if left <= 0 or not self.poll_write(left):
                raise WireTimeout(f"{self.peer()} took only part of what was sent before the deadline")
            done = self.flush()

    def recv_by(self, deadline: float) -> Frame:
        """Waits for a frame. `deadline` as of time.monotonic().

        Raises:
            WireTimeout: the deadline passed first.
        """
        while True:
            frame = self.recv()
            if frame is not None:
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not self.poll(left):
                raise WireTimeout(f"{self.peer()} sent no frame before the deadline")


def pieces(buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> list[tuple[memoryview, Sequence[Fd]]]:
    """What has to be queued of these: the ones that are not empty, `fds` with the first."""
    views = [memoryview(buffer) for buffer in buffers if buffer]
    return [(view, () if number else fds) for number, view in enumerate(views)]


def millis(timeout: float | None) -> float | None:
    """Seconds as select.poll takes them: milliseconds, rounded up so that a short wait does not become a
    spin."""
    if timeout is None or timeout <= 0:
        return 0 if timeout is not None else None
    return min(timeout * 1000 + 0.5, 2_000_000_000.0)
