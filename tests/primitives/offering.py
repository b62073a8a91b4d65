"""Offers a command in a process of its own, and runs one: `offering.py serve SOCKET NAME PROGRAM...`, which says its
number and waits, and `offering.py run SOCKET NAME ARGUMENTS...`, which says that of what runs, and waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading

import ipcd_client


def main() -> None:
    verb, path, name, *rest = sys.argv[1:]
    if verb == "serve":
        with ipcd_client.command(name, node=path).serve(rest, args=("*",), detach=True, grace=0.3):
            print("offered", flush=True)
            threading.Event().wait()
        return
    detach = verb == "detach"
    process = ipcd_client.command(name, node=path).popen(rest, stdin=subprocess.PIPE, detach=detach)
    print(process.pid, flush=True)
    process.wait()


if __name__ == "__main__":
    main()
