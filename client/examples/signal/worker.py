"""A worker that reads its settings again when it is told to: on this machine or any other.

ipcd run &
python worker.py &
ipcctl signal raise reload
"""

from __future__ import annotations

import os

import ipcd_client
from ipcd_client.primitives.flags import Raised


def main() -> None:
    reloads = 0

    def reload(flag: Raised) -> None:
        # On the main thread, whatever that does just now, as a handler of signal.signal.
        nonlocal reloads
        reloads += 1
        print(f"reload {reloads}, as process {flag.pid} on {flag.node} wants it", flush=True)

    with (
        ipcd_client.signal("reload") as flag,
        flag.listen(group="workers", handler=reload),
        ipcd_client.signal("stop") as stop,
        stop.listen(group="workers") as stopping,
    ):
        print(f"working as process {os.getpid()}", flush=True)
        stopping.wait()
    print("stopped")


if __name__ == "__main__":
    main()
