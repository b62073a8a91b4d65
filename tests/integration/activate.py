"""Starts a program as systemd does: with listening sockets from descriptor 3 on.

python activate.py NAMES FD,FD,... PROGRAM ARGUMENT...
"""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3


def main() -> None:
    names, numbers, *command = sys.argv[1:]
    # First out of the way: the given ones may lie where they belong, in another order.
    high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(",")]
    for place, fd in enumerate(high, FIRST):
        os.dup2(fd, place)
    about = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names}
    os.execve(command[0], command, os.environ | about)


if __name__ == "__main__":
    main()
