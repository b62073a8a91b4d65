"""The process of a peer's server, until its standard input ends.

    python -m benchmarks.server PEER PLACE

Once it serves, it says so in a line of JSON: `{"pid": N, "address": TEXT}`; where it cannot, `{"error": TEXT}`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

from benchmarks.peers.base import Place
from benchmarks.peers.registry import BY_NAME
from benchmarks.processes import allow_descriptors
from benchmarks.talk import error_text, say


def main() -> None:
    peer, place = BY_NAME[sys.argv[1]], Place(**json.loads(sys.argv[2]))
    allow_descriptors()
    try:
        module = importlib.import_module(f"benchmarks.peers.{peer.module}")
        if peer.aio:
            asyncio.run(_serve(module, place))
            return
        server = module.serve(place)
    except Exception as error:
        # Whatever it is, it is told to who can act on it; where it came from stands in this process's log.
        say({"error": error_text(error)})
        raise
    say({"pid": os.getpid(), "address": server.address})
    sys.stdin.read()
    server.close()


async def _serve(module: Any, place: Place) -> None:
    server = await module.serve(place)
    say({"pid": os.getpid(), "address": server.address})
    await asyncio.to_thread(sys.stdin.read)
    await server.close()


if __name__ == "__main__":
    main()
