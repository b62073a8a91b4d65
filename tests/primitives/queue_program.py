"""A process that uses a queue, until it is killed: `python queue_program.py SOCKET NAME WHAT [ARGUMENT]`.

It says on standard output what it has done, a line each.
"""

from __future__ import annotations

import sys
import time

import ipcd_client
from ipcd_client.errors import IpcdError


def main() -> None:
    socket, name, what, *arguments = sys.argv[1:]
    with ipcd_client.queue(name, node=socket) as queue:
        if what == "hold":
            print("held", queue.receive(ack=False, lease=float(arguments[0])).deliveries, flush=True)
            sys.stdin.read()
        elif what == "receive":
            print("received", queue.receive().data, flush=True)
        elif what == "send":
            print("sent", queue.send(arguments[0].encode()), flush=True)
        elif what == "produce":
            # Each number once: whether one that failed got there, nobody knows. After that they go on from the next.
            for number in range(int(arguments[0]), 1 << 40):
                while True:
                    try:
                        queue.send(b"%d" % number)
                    except IpcdError:
                        print("failed", number, flush=True)
                        time.sleep(0.01)
                    else:
                        print("sent", number, flush=True)
                    break


if __name__ == "__main__":
    main()
