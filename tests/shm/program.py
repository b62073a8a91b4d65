"""A server, or a caller, in whose process something fails: program.py serve|call SOCKET FAULT...

It reads commands from its standard input, a line each, and answers each with a line of JSON.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc
import ipcd_client
from conformance.echo import SERVICE, Echo

LONG = 20.0


def failing(number: int) -> Callable[..., Any]:
    def fail(*arguments: object, **keywords: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def unreadable(*arguments: Any, **keywords: Any) -> Any:
    """Maps for writing only."""
    if mmap.PROT_READ in arguments:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return mapping(*arguments, **keywords)


mapping = mmap.mmap
FAULTS: dict[str, Callable[[], None]] = {
    "memfd_create": lambda: setattr(os, "memfd_create", failing(errno.ENOSYS)),
    "posix_fallocate": lambda: setattr(os, "posix_fallocate", failing(errno.ENOSPC)),
    "mmap": lambda: setattr(mmap, "mmap", failing(errno.ENOMEM)),
    "mmap for reading": lambda: setattr(mmap, "mmap", unreadable),
}


def limit(room: int) -> None:
    """So many descriptors can be opened, and no more; -1: as many as ever."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = most
    # To look needs a descriptor, of which the last limit may have left none.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if room >= 0:
        used = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
        free = (number for number in range(most) if number not in used)
        soft = next(number for count, number in enumerate(free) if count == room)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


class Caller:
    """Makes channels, and calls."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.channels: list[ipcd_client.Channel] = []

    def call(self, transport: str, size: str = "10", timeout: str = "20") -> dict[str, Any]:
        """A call over a channel of its own, and one whose answer is streamed; what became of it."""
        channel = ipcd_client.channel(node=self.path, transport=transport)
        self.channels.append(channel)
        data = bytes(int(size))
        try:
            answer = channel.unary_unary(f"/{SERVICE}/UnaryEcho")(data, timeout=float(timeout))
            parts = list(channel.unary_stream(f"/{SERVICE}/DownCount")(b"100", timeout=float(timeout)))
            route = channel.route(SERVICE)
        except grpc.RpcError as error:
            return {"code": error.code().name, "why": error.details()}
        good = answer == data and parts == [b"%d" % number for number in range(100)]
        return {"code": "OK" if good else "WRONG", "transport": route.transport, "why": route.reason}

    def many(self, count: str) -> dict[str, Any]:
        """As many channels, each with a connection."""
        kinds = [self.call("auto")["transport"] for _ in range(int(count))]
        return {"transports": sorted(set(kinds))}

    def close(self) -> dict[str, Any]:
        while self.channels:
            self.channels.pop().close()
        return {}


def main(role: str, path: str, *faults: str) -> None:
    caller = Caller(path)
    server = None
    if role == "serve":
        server = ipcd_client.server(handlers=(Echo(),), name="one", node=path)
        server.start()
    for fault in faults:
        FAULTS[fault]()
    for line in sys.stdin:
        name, *arguments = line.split()
        if name == "limit":
            limit(int(arguments[0]))
            answer: object = {}
        else:
            answer = getattr(caller, name)(*arguments)
        print(json.dumps(answer), flush=True)
    caller.close()
    if server is not None:
        server.stop(None).wait()


if __name__ == "__main__":
    # Without any descriptor left nothing can be imported any more.
    select.poll()
    main(*sys.argv[1:])
