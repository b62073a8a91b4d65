"""Tells the workers of all machines to read their settings again and to stop, and sees how one of them ends.

python supervisor.py PID[@NODE]
"""

from __future__ import annotations

import sys

import ipcd_client


def main(worker: str) -> None:
    with ipcd_client.signal("reload") as flag, ipcd_client.signal("stop") as stop:
        for told in flag.raise_(group="workers"):
            print(f"{told.listeners} told on {told.node}" if not told.error else f"{told.node}: {told.error}")
        with ipcd_client.watch_exit(worker) as watch:
            stop.raise_(pid=worker)
            print(watch.wait(timeout=10))


if __name__ == "__main__":
    main(sys.argv[1])
