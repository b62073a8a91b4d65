"""Listens for a flag until it is killed: `python signal_child.py SOCKET NAME [GROUP]`. Says "listening", and for each
flag that it takes "raised" and the number of the process that raised it."""

from __future__ import annotations

import sys

import ipcd_client


def main(socket: str, name: str, group: str = "") -> None:
    with ipcd_client.signal(name, node=socket) as signal, signal.listen(group=group) as listener:
        print("listening", flush=True)
        while True:
            print("raised", listener.wait().pid, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
