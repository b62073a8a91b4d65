"""The process of a peer's client: told what to do by lines of JSON on standard input.

    python -m benchmarks.worker PEER PLACE SERVER_PID

It begins with a line that says what the connection is: `{"transport": TEXT, "why": TEXT}`. After that each command,
`{"do": NAME, ...}`, is a method of benchmarks/callers.py with its arguments, and is answered with a line; a failure
with `{"error": TEXT}`, after which the process ends. So it does at the end of its input: it never outlives who started
it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

from benchmarks.callers import AioCaller, SyncCaller
from benchmarks.peers.base import Place
from benchmarks.peers.registry import BY_NAME
from benchmarks.processes import allow_descriptors
from benchmarks.talk import error_text, say


def main() -> None:
    peer, place, server_pid = BY_NAME[sys.argv[1]], Place(**json.loads(sys.argv[2])), int(sys.argv[3])
    allow_descriptors()
    try:
        module = importlib.import_module(f"benchmarks.peers.{peer.module}")
        if peer.aio:
            asyncio.run(_aio(module, place, server_pid))
        else:
            _sync(module, place, server_pid)
    except Exception as error:
        # Whatever it is, it is told to who can act on it; where it came from stands in this process's log.
        say({"error": error_text(error)})
        raise


def _sync(module: Any, place: Place, server_pid: int) -> None:
    client = module.connect(place)
    try:
        say(client.taken._asdict())
        caller = SyncCaller(client, module.connect, place, server_pid)
        for line in sys.stdin:
            command = json.loads(line)
            say(getattr(caller, command.pop("do"))(**command))
    finally:
        client.close()


async def _aio(module: Any, place: Place, server_pid: int) -> None:
    client = await module.connect(place)
    try:
        say(client.taken._asdict())
        caller = AioCaller(client, module.connect, place, server_pid)
        # Read in a thread, so that the loop goes on: it has a connection to look after.
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            answer = getattr(caller, command.pop("do"))(**command)
            say(await answer if asyncio.iscoroutine(answer) else answer)
    finally:
        await client.close()


if __name__ == "__main__":
    main()
