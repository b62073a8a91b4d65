"""Forks while it listens: `python signal_fork.py SOCKET`. The child raises the flag, and finds that it cannot listen
with what it has of its parent; the parent takes the flag."""

from __future__ import annotations

import os
import sys

import ipcd_client
from ipcd_client.errors import UsageError

LONG = 20.0


def main(socket: str) -> int:
    with ipcd_client.signal("forked", node=socket) as signal, signal.listen() as listener:
        signal.raise_()
        listener.wait(LONG)
        child = os.fork()
        if not child:
            try:
                listener.wait(0)
            except UsageError:
                told = signal.raise_()
                os._exit(7 if sum(each.listeners for each in told) == 1 else 1)
            os._exit(2)
        with ipcd_client.watch_exit(child, node=socket) as watch:
            taken = listener.wait(LONG)
            ended = watch.wait(LONG)
        os.waitpid(child, 0)
        return 0 if (taken.pid, ended.code) == (child, 7) else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
