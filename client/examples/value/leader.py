"""Of those that run, on any number of machines, one is the leader; when it ends, however it does, another one is.

Run it several times, and kill the leader."""

from __future__ import annotations

import os
import socket
import sys

import ipcd_client


def main(name: str) -> int:
    me = f"pid {os.getpid()} on {socket.gethostname()}"
    with ipcd_client.value(name) as leader:
        known = leader.get()
        while True:
            # Only if there is none: of several that try at once, one gets it. It ends with this process.
            if leader.compare_and_set(0, me, ephemeral=True):
                print("leading", flush=True)
                leader.keep()
            if known:
                print(f"following {bytes(known).decode()}", flush=True)
            known = leader.wait(known)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:] or ["leader"]))
    except KeyboardInterrupt:
        pass
