"""A process that uses a semaphore: `semaphore_user.py SOCKET|HOST:PORT NAME hold|take|wait|fork`. It says what it has
done, one line each, and stays until it is ended."""

from __future__ import annotations

import os
import sys
from typing import Any

import grpc
import ipcd_client
from ipcd_client.primitives.errors import BadRequest, Lost


def say(*words: object) -> None:
    print(*words, flush=True)


def main(where: str, name: str, what: str) -> None:
    keywords: dict[str, Any] = {"node": where} if "/" in where else {"channel": grpc.insecure_channel(where)}
    handle = ipcd_client.semaphore(name, 1, undo=what != "take", **keywords)
    if what == "wait":
        say("waits")
        handle.acquire()
        say("held")
    else:
        hold = handle.hold() if what == "fork" else None
        if hold is None:
            handle.acquire()
        say("held")
        if hold is not None and os.fork() == 0:
            try:
                hold.release()
            except Lost as error:
                say("child:", error)
            try:
                handle.release()
            except BadRequest as error:
                say("child:", error)
            say("child: has", handle.get_value())
            os._exit(0)
        if hold is not None:
            os.wait()
            say("parent:", handle.get_value(), "lost" if hold.lost else "held")
            hold.release()
            say("parent:", handle.get_value())
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
