"""A process that uses a queue, until it is killed: `python queue_program.py SOCKET NAME WHAT [ARGUMENT]`.

It says on standard output what it has done, a line each.
"""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ipcd_client
from ipcd_client.errors import IpcdError
from ipcd_client.primitives.queue import Queue


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
            # Several at a time, so that there are groups of them.
            with ThreadPoolExecutor(int(arguments[0])) as pool:
                for producer in range(int(arguments[0])):
                    pool.submit(produce, queue, producer)


def produce(queue: Queue, producer: int) -> None:
    """Sends each text once: whether one that failed got there, nobody knows."""
    for number in itertools.count():
        text = f"{producer}.{number}"
        try:
            queue.send(text.encode())
        except IpcdError:
            print(f"failed {text}\n", end="", flush=True)
            time.sleep(0.05)
        else:
            print(f"sent {text}\n", end="", flush=True)


if __name__ == "__main__":
    main()
