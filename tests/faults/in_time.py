"""Runs a command whose monotonic clock is ahead of the machine's: python -I -S in_time.py SECONDS COMMAND...

In a time namespace, in place of this process, so that the process id stays the same. It needs root, and a kernel that
has them (5.6). As bare as can be, as tests/cluster/enter.py.
"""

from __future__ import annotations

import ctypes
import os
import sys

# linux/sched.h
CLONE_NEWTIME = 0x00000080


def main(seconds: str, *command: str) -> None:
    """See the module."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            sys.exit(f"{name}: {os.strerror(number)}")

    call("unshare", CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as offsets:  # noqa: PTH123
        offsets.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")
    # unshare(2) moves the children alone.
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    call("setns", fd, CLONE_NEWTIME)
    os.close(fd)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
