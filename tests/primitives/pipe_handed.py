"""Hands ends of pipes to a child: `pipe_handed.py SOCKET spawn|fork`."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

import ipcd_client


def copy_upper(reader: Any, writer: Any) -> None:
    """In the child."""
    with reader as source, writer as sink:
        sink.write(source.read().upper())


def main() -> None:
    socket, method = sys.argv[1:]
    there, to_child = ipcd_client.unnamed_pipe(node=socket)
    from_child, back = ipcd_client.unnamed_pipe(node=socket)
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=copy_upper, args=(there, back))
    process.start()
    with to_child as writer:
        writer.write(b"hello")
    with from_child as reader:
        sys.stdout.write(reader.read().decode() + "\n")
    process.join()


if __name__ == "__main__":
    main()
