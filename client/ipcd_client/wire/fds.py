"""Descriptors owned by objects that close exactly once, and their way through a UNIX socket."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from ipcd_client.errors import ProtocolError, UsageError

# Descriptors in one message. The kernel's own limit is 253 (SCM_MAX_FD); no frame of ours needs more than a
# few.
MAX_FDS: Final = 8
ANCILLARY_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class Fd:
    """Owns one descriptor. Whoever holds the object closes it, or passes the ownership on with `detach`."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, still owned here."""
        if self._fd < 0:
            raise ValueError("the descriptor was closed or passed on")
        return self._fd

    def detach(self) -> int:
        """The descriptor, owned by the caller from now on."""
        fd, self._fd = self.fileno(), -1
        return fd

    def close(self) -> None:
        """Closes it, if it is still owned here."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __repr__(self) -> str:
        return f"Fd({self._fd})"


def close_all(fds: Iterable[Fd]) -> None:
    """Closes those that are still owned."""
    for fd in fds:
        fd.close()


def check_count(fds: Sequence[Fd]) -> None:
    """For descriptors that are to travel with one frame.

    Raises:
        UsageError: they are more than may. They are closed.
    """
    if len(fds) > MAX_FDS:
        close_all(fds)
        raise UsageError(f"{len(fds)} descriptors with one frame, the limit is {MAX_FDS}")


def pop(came: deque[Fd], count: int) -> list[Fd]:
    """The first `count` of those that came, for the frame that names so many.

    Raises:
        ProtocolError: `missing-fds`.
        IndexError: another thread has taken them meanwhile.
    """
    if count > len(came):
        raise ProtocolError("missing-fds", f"a frame names {count} descriptors, {len(came)} came")
    return [came.popleft() for _ in range(count)]


def check_named(came: deque[Fd]) -> None:
    """To be called when every frame so far was taken, with its own.

    Raises:
        ProtocolError: `unexpected-fds`: there are more.
    """
    if came:
        raise ProtocolError("unexpected-fds", f"{len(came)} descriptors came that no frame named")


def ancillary(fds: Sequence[Fd]) -> list[tuple[int, int, array.array[int]]]:
    """The control message for sendmsg. The objects must live until sendmsg has returned."""
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd.fileno() for fd in fds]))]


def received(control: Sequence[tuple[int, int, bytes]], flags: int) -> list[Fd]:
    """The descriptors of a recvmsg that was given MSG_CMSG_CLOEXEC.

    Raises:
        ProtocolError: `truncated-fds`, when more came than there was room for. What did come is closed.
    """
    fds: list[Fd] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            fds += map(Fd, numbers)
    if flags & socket.MSG_CTRUNC:
        close_all(fds)
        raise ProtocolError("truncated-fds", f"more than {MAX_FDS} descriptors in one message, or no room for more")
    return fds
