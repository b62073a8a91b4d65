"""A node whose daemon lies about topics: before `python -m ipcd run ...` on a command line."""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import EOF
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc

import ipcd.primitives
from ipcd import limits
from ipcd.primitives import topic

LARGEST = (1 << 64) - 1
# What somebody asks for who is told of it without an end.
ENDLESS = "endless.x"
# The same, of which one message is told and nothing more, not even the end.
HANGING = "hanging.x"


def message(subject: str, data: bytes = b"bad", **fields: Any) -> topic_pb2.TopicMessage:
    fields = {"node": "c", "sequence": 1, "time": 1.0, **fields}
    return topic_pb2.TopicMessage(subject=subject, data=data, **fields)


def lies(name: str) -> list[topic_pb2.TopicMessage]:
    """None of these is under the subject `name`, or can be at all."""
    return [
        message(""),
        message("*"),
        message(f"{name}@c"),
        message("@" + "y" * (1 << 20)),
        message(f"{name}..y"),
        message(name, bytes(limits.TOPIC_MESSAGE + 1)),
        message(name, time=float("nan")),
        message(name, time=1e300),
        message(name, time=-1.0),
    ]


def replies(want: topic_pb2.TopicWant) -> list[topic_pb2.TopicLinkReply]:
    """For one of `name.*`, lies, and one message at the end."""
    name = want.pattern.replace("*", "x")
    to = {"groups": [want.id, want.id, LARGEST >> 32]} if want.group else {"plain": True}
    parcels = [topic_pb2.TopicParcel(message=each, **to) for each in lies(name)]
    parcels += [topic_pb2.TopicParcel(message=message("other.y"), groups=[want.id], plain=True)]
    good = topic_pb2.TopicParcel(message=message(name, b"good"), number=7, not_for=[LARGEST >> 32], **to)
    # Of a number there is one at a time: here somebody waits for the first until it has been taken.
    again = topic_pb2.TopicParcel(message=message(name, b"again"), number=7, **to)
    missed = [topic_pb2.TopicMissed(id=want.id, count=LARGEST), topic_pb2.TopicMissed(id=LARGEST >> 32, count=1)]
    return [
        *(topic_pb2.TopicLinkReply(parcels=[each]) for each in parcels),
        *(topic_pb2.TopicLinkReply(missed=missed) for _ in range(3)),
        topic_pb2.TopicLinkReply(refused=[topic_pb2.TopicRefused(id=LARGEST >> 32, why="y" * (1 << 20))]),
        topic_pb2.TopicLinkReply(given_up=[LARGEST]),
        topic_pb2.TopicLinkReply(parcels=[good, again]),
    ]


class Liar(topic.TopicServicer):
    async def Link(self, requests: AsyncIterator[Any], context: Any) -> None:
        resumed = False
        while (request := await context.read()) is not EOF:
            if not resumed:
                await context.write(topic_pb2.TopicLinkReply(resumed=True))
                resumed = True
            await context.write(topic_pb2.TopicLinkReply(confirmed=request.serial))
            for want in request.wants:
                for reply in replies(want) if want.members else ():
                    await context.write(reply)

    async def Replay(self, request: Any, context: Any) -> AsyncIterator[topic_pb2.TopicMessage]:
        name = request.name.replace("*", "x")
        if name == HANGING:
            yield message(name)
            await asyncio.Event().wait()
        for each in (*lies(name), message("other.y")):
            yield each
        while name == ENDLESS:
            yield message(name, bytes(64 << 10))
        yield message(name, b"good")

    async def Forget(self, request: Any, context: Any) -> topic_pb2.TopicForgetReply:
        return topic_pb2.TopicForgetReply(messages=LARGEST >> 32)


def add(keeper: Any, server: Any) -> Liar:
    servicer = Liar(keeper)
    topic_pb2_grpc.add_TopicServicer_to_server(servicer, server)
    return servicer


if __name__ == "__main__":
    ipcd.primitives.ALL = tuple(add if each is topic.add else each for each in ipcd.primitives.ALL)  # type: ignore[misc]
    sys.argv = sys.argv[3:]
    runpy.run_module("ipcd", run_name="__main__", alter_sys=False)
