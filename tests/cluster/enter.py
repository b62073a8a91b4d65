"""Runs a command on a host of the cluster, in place of this process: the process id stays the same.

    python -I -S enter.py OWNER NAMESPACE_FD HOSTNAME COMMAND...

A program of its own and no `preexec_fn`, because whoever starts it may have threads, and a fork of those must not
run Python before it has executed something. As bare as can be, because it runs before each command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

# linux/sched.h, linux/prctl.h
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


def main(owner: str, namespace: str, hostname: str, *command: str) -> None:
    """See the module. OWNER is the process that the command must not outlive."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    # Nothing outlives the tests, not even if they are killed and can tidy nothing up.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(owner):
        sys.exit("the owner has ended already")
    call("setns", int(namespace), CLONE_NEWNET)
    os.close(int(namespace))
    # A host has a name of its own: whoever takes that for its node's name must not find the same on each.
    call("unshare", CLONE_NEWUTS)
    socket.sethostname(hostname)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
