"""Descriptors over sockets, with a peer that does as it likes. Real ones, as the kernel is part of it."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from fuzz.frames import FRAME_WORDS, frames, listed
from fuzz.registry import target
from fuzz.script import Script, blocks
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError, WireError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import HEADER
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.unix import UnixWire

MOST: Final = 24  # steps of one input: each costs system calls


def _count() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is wanted


def null() -> Fd:
    return Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def no_leak() -> Iterator[None]:
    before = _count()
    yield
    after = _count()
    assert after == before, f"{after - before} descriptors were left"


@target(
    "descriptors",
    st.lists(st.builds(lambda count, raw: bytes((count,)) + blocks(raw), st.integers(0, 255), frames), max_size=4).map(
        b"".join
    ),
    words=(
        *FRAME_WORDS,
        b"\x01\x10\x00" + HEADER.pack(0, 1, codec.MESSAGE, 1, 0, 0),
        b"\x02\x10\x00" + HEADER.pack(0, 1, codec.STATUS, 2, 0, 0),
    ),
)
def _descriptors(data: bytes) -> object:
    """Frames over a UNIX socket with any number of descriptors beside them, which need not be the number they name."""
    with no_leak():
        return _with_descriptors(Script(data))


def _with_descriptors(script: Script) -> object:
    one, other = socket.socketpair()
    wire = UnixWire(one, peer="the peer", accept_fds=True)
    wire.max_frame = 4096
    other.setblocking(False)
    said: list[object] = []
    one_fd = null()
    try:
        for _ in range(MOST):
            if not script:
                break
            choice = script.number()
            piece = script.block() or b"\0"
            fds = [one_fd.fileno()] * (choice % 12)
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            if choice & 64:
                control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
            try:
                other.sendmsg([piece], control)
            except OSError as error:
                # Two lists in one message, or none to send in this many: the kernel's word on what a peer can do.
                if error.errno not in {errno.EINVAL, errno.EPIPE, errno.EAGAIN, errno.ETOOMANYREFS}:
                    raise
                continue
            while (frame := wire.recv()) is not None:
                taken = wire.take_fds(frame.fds) if frame.fds else []
                said.append((frame.type, len(taken)))
                fdlib.close_all(taken)
                assert len(wire._fds) <= 4 * fdlib.MAX_FDS
        other.close()
        while (frame := wire.recv()) is not None:
            fdlib.close_all(wire.take_fds(frame.fds) if frame.fds else [])
    except ProtocolError as error:
        said.append(listed(error))
    except WireError:
        said.append("closed")
    finally:
        wire.abort()
        other.close()
        one_fd.close()
    return said


@target(
    "ancillary",
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=5).map(
        lambda parts: bytes(one for part in parts for one in part)
    ),
    raises=(ProtocolError,),
    largest=64,
)
def _ancillary(data: bytes) -> object:
    """Control messages of any level and length, as recvmsg hands them out."""
    script = Script(data)
    flags = socket.MSG_CTRUNC if script.number() & 1 else 0
    with no_leak():
        control = []
        for _ in range(MOST):
            if not script:
                break
            kind, size = script.number(), script.number()
            rights = kind % 3 != 2
            fds = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(size % 4)] if rights else []
            raw = array.array("i", fds).tobytes() + bytes(size % 7 % 4 if rights else size)
            control.append((socket.SOL_SOCKET, socket.SCM_RIGHTS if rights else kind, raw))
        found = fdlib.received(control, flags)
        fdlib.close_all(found)
        return len(found)
