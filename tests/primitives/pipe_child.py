"""A process at one end of a pipe: `pipe_child.py SOCKET NAME read|write|hold-read|hold-write [TEXT]`. To be killed."""

from __future__ import annotations

import sys
import time
from typing import Any

import ipcd_client


def say(word: str) -> None:
    """To whoever started this."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main() -> None:
    socket, name, act, text = [*sys.argv[1:], ""][:4]
    pipe = ipcd_client.pipe(name, node=socket)
    say("opening")
    end: Any = pipe.open_read(buffering=0) if act.endswith("read") else pipe.open_write()
    say("open")
    if act == "write":
        end.write(text.encode())
        say("written")
    elif act == "read":
        say(end.read(len(text)).decode())
    time.sleep(1000)


if __name__ == "__main__":
    main()
