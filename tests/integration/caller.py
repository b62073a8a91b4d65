"""A process that calls lab.v1.Lab all the time, until it is told to stop.

python caller.py NODE_SOCKET kept|new|hasty|aio

kept: on one channel; new: each on a new channel, with wait_for_ready; hasty: without it; aio: the same with asyncio.

Prints "ready" once the first calls have gone well, reads a line, prints what came of all calls as JSON, and ends.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import threading
from collections.abc import Iterator

import grpc
import ipcd_client
import ipcd_client.aio

from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc

PATIENCE = 20.0  # seconds
READY_AFTER = 3


def outcomes(socket: str, kind: str) -> Iterator[str]:
    """One word for each call."""
    with ipcd_client.channel(node=socket) as kept:
        while True:
            if kind == "kept":
                yield _called(kept, wait=False)
            elif kind == "aio":
                yield asyncio.run(_called_aio(socket))
            else:
                with ipcd_client.channel(node=socket) as channel:
                    yield _called(channel, wait=kind == "new")


def _called(channel: grpc.Channel, *, wait: bool) -> str:
    try:
        stub = lab_pb2_grpc.LabStub(channel)
        stub.Digest(lab_pb2.DigestRequest(data=b"x"), timeout=PATIENCE, wait_for_ready=wait)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "ok"


async def _called_aio(socket: str) -> str:
    async with ipcd_client.aio.channel(node=socket) as channel:
        stub = lab_pb2_grpc.LabStub(channel)
        try:
            await stub.Digest(lab_pb2.DigestRequest(data=b"x"), timeout=PATIENCE)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "ok"


def main() -> None:
    socket, kind = sys.argv[1:]
    done = threading.Event()

    def until_told() -> None:
        sys.stdin.readline()
        done.set()

    threading.Thread(target=until_told, daemon=True).start()
    counted: collections.Counter[str] = collections.Counter()
    for outcome in outcomes(socket, kind):
        counted[outcome] += 1
        if counted.total() == READY_AFTER:
            print("ready", flush=True)
        if done.is_set():
            break
    print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    main()
