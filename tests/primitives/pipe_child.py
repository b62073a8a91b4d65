"""A process at one end of a pipe: `pipe_child.py SOCKET NAME read|write|hold-read|hold-write [TEXT]`. To be killed.

`write-then TRANSPORT SIZE` writes so many bytes when it is told to, and says so when its system has them.
"""

from __future__ import annotations

import functools
import sys
import time
from types import SimpleNamespace
from typing import Any

import ipcd_client
import ipcd_client.aio
from ipcd_client.primitives import pipe_writer


def say(word: str) -> None:
    """To whoever started this."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def sent(end: Any, size: int) -> bool:
    """Whether the system has all of it."""
    gives = list(end._engine._gives.values())
    if [give.given for give in gives] != [size]:
        return False
    connection = gives[0].call._exchange.connection
    return not connection._held_size and not connection.wire.backlog


def main() -> None:
    socket, name, act, *more = sys.argv[1:]
    text = more[-1] if more else ""
    if act == "write-then":
        ours: Any = pipe_writer
        ours.aio = SimpleNamespace(channel=functools.partial(ipcd_client.aio.channel, transport=more[0]))
    pipe = ipcd_client.pipe(name, node=socket)
    say("opening")
    end: Any = pipe.open_read(buffering=0) if act.endswith("read") else pipe.open_write()
    say("open")
    if act == "write":
        end.write(text.encode())
        say("written")
    elif act == "write-then":
        sys.stdin.readline()
        end.write(bytes(int(text)))
        end.flush()
        while not sent(end, int(text)):
            time.sleep(0.01)
        say("written")
    elif act == "read":
        say(end.read(len(text)).decode())
    time.sleep(1000)


if __name__ == "__main__":
    main()
