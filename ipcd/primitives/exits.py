"""The end of a process of this machine, as the kernel tells it: that it has ended, at once, by its pidfd; and how, as
far as it says so to anybody but the parent.

It does so in two ways: by the pidfd, of a process that its parent has reaped (Linux 6.15, PIDFD_INFO_EXIT); and until
then in /proc/PID/stat, to whoever might trace the process (proc(5)). A parent that has reaped on an older kernel has
taken the status with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ipcd_client.pb.ipcd.v1 import node_pb2, signal_pb2
from ipcd_client.primitives.errors import NoSuchName

from ipcd import limits

KERNEL: Final = "kernel"
PARENT: Final = "parent"
# <linux/pidfd.h>: struct pidfd_info as it was first, and the place of the exit status in it.
_INFO: Final = struct.Struct("=QQ11Ii")
_GET_INFO: Final = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # _IOWR
_INFO_EXIT: Final = 1 << 3
# Fields of /proc/PID/stat behind the name, as proc(5) counts them from the state on, which is the third there.
_STATE: Final = 0
_PPID: Final = 1
_STATUS: Final = 49
# Seconds between two looks whether a process was reaped meanwhile.
_LOOK: Final = 0.005


class Exit:
    """Watches one process, until it is closed. `pidfd_id`: the inode of its pidfd, where that is known.

    Raises:
        NoSuchName: there is none.
        LimitReached: there is no descriptor left.
    """

    def __init__(self, process: node_pb2.Process, wall: Callable[[], float] = time.time) -> None:
        self.process = node_pb2.Process()
        self.process.CopyFrom(process)
        self._wall = wall
        self._told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._fd = os.pidfd_open(process.pid)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise limits.LimitReached("the limit of descriptors is reached") from error
            # EINVAL: a thread that is not its process's first.
            raise _none(process) from error
        try:
            inode = os.fstat(self._fd).st_ino
            if process.pidfd_id not in {0, inode}:
                raise _none(process)
            # Before Linux 6.9 all pidfds have one inode: then it tells nothing, and does no harm.
            self.process.pidfd_id = inode
            with contextlib.suppress(OSError):
                self.process.uid = Path(f"/proc/{process.pid}").stat().st_uid
            if not self.has_number:
                raise _none(process)
            self.late = self._readable()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def has_number(self) -> bool:
        """The number is the process's still, as it runs or was not reaped: what is read of the number now, before this
        is asked, is of this process and not of another that got it meanwhile."""
        try:
            signal.pidfd_send_signal(self._fd, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it is another user's, and there
        return True

    def told(self, wait_status: int) -> None:
        """Its parent has said how it ended."""
        if not self._told.done():
            self._told.set_result(wait_status)

    async def ended(self) -> signal_pb2.Exited:
        """When it has."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            # It stays readable.
            loop.remove_reader(self._fd)
        exited = signal_pb2.Exited(process=self.process, ended=0.0 if self.late else self._wall())
        status, source = await self._status()
        if status is not None:
            exited.source = source
            exited.core_dumped = os.WCOREDUMP(status)
            if os.WIFSIGNALED(status):
                exited.signal = os.WTERMSIG(status)
            else:
                exited.code = os.WEXITSTATUS(status)
        return exited

    async def _status(self) -> tuple[int | None, str]:
        end = asyncio.get_running_loop().time() + limits.EXIT_TOLD
        while True:
            status = self._reaped()
            if status is None:
                found = unreaped(self.process.pid)
                status = found if self.has_number else None
            if status is not None:
                return status, KERNEL
            if self._told.done():
                return self._told.result(), PARENT
            if asyncio.get_running_loop().time() >= end:
                return None, ""
            await asyncio.wait({self._told}, timeout=_LOOK)

    def _reaped(self) -> int | None:
        info = bytearray(_INFO.size)
        _INFO.pack_into(info, 0, _INFO_EXIT, *[0] * 13)
        try:
            fcntl.ioctl(self._fd, _GET_INFO, info)
        except OSError:
            return None  # an older kernel
        mask, *_, status = _INFO.unpack(info)
        return int(status) if mask & _INFO_EXIT else None

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Ends the watch."""
        self._told.cancel()
        os.close(self._fd)


def unreaped(pid: int) -> int | None:
    """The wait status of a process that has ended and was not reaped; None where it is not so, or not ours to know."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] != "Z":
        return None
    try:
        # The kernel writes 0 where the reader might not trace the process; this link can be read by whoever may.
        os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115
    except OSError:
        return None
    return int(fields[_STATUS])


def parent_of_unreaped(pid: int) -> int:
    """The parent of a process that has ended and was not reaped; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[_PPID]) if fields is not None and fields[_STATE] == "Z" else 0


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may have any in it.
    return text.rpartition(")")[2].split()


def _none(process: node_pb2.Process) -> NoSuchName:
    return NoSuchName(f"there is no process {process.pid} on node {process.node}")
