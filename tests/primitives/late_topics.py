"""A node that waits long for what others keep, and that says what it keeps itself once `last` is kept: before
`python -m ipcd run ...` on a command line."""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator
from typing import Any

from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc

import ipcd.primitives
from ipcd.primitives import topic, topic_kept

LAST = b"last"


class Late(topic.TopicServicer):
    async def Replay(self, request: Any, context: Any) -> AsyncIterator[topic_pb2.TopicMessage]:
        pattern = self._here(request.name)
        if request.here:
            kept = self._board.kept
            while all(one.data != LAST for one in kept.last(kept.names(pattern))):  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)
        async for each in super().Replay(request, context):
            yield each


def add(keeper: Any, server: Any) -> Late:
    servicer = Late(keeper)
    topic_pb2_grpc.add_TopicServicer_to_server(servicer, server)
    topic_pb2_grpc.add_TopicMemoryServicer_to_server(servicer.memories, keeper.api)
    return servicer


if __name__ == "__main__":
    topic_kept.ASK = 60.0  # type: ignore[attr-defined]
    ipcd.primitives.ALL = tuple(add if each is topic.add else each for each in ipcd.primitives.ALL)  # type: ignore[misc]
    sys.argv = sys.argv[3:]
    runpy.run_module("ipcd", run_name="__main__", alter_sys=False)
