"""A process with a lock: `lock_holder.py NODE_SOCKET NAME [wait] [shared]`. Says "held TOKEN", and "lost" once it is;
ends with the end of its input. With `wait` it says "waiting" before."""

from __future__ import annotations

import sys

import ipcd_client


def main() -> None:
    path, name, *words = sys.argv[1:]
    lock = ipcd_client.lock(name, node=path)
    lock = lock.shared() if "shared" in words else lock
    if "wait" in words:
        print("waiting", flush=True)
    held = lock.acquire()
    print("held", held.token, flush=True)
    held.on_lost(lambda error: print("lost", error, flush=True))
    sys.stdin.read()
    if not held.lost:
        held.release()


if __name__ == "__main__":
    main()
