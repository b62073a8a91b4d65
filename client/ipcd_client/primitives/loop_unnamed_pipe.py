"""Pipes without names, for an event loop."""

from __future__ import annotations

from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.loop_pipe_end import PipeEnd
from ipcd_client.primitives.loop_place import LoopPlace
from ipcd_client.primitives.pipe_parts import ANSWER, KIND, READ, WRITE, unguessable


async def unnamed_pipe(*, node: str | None = None) -> tuple[PipeEnd, PipeEnd]:
    """The end that reads and the end that writes of a new pipe, kept by this node. (unnamed_pipe.unnamed_pipe)"""
    place = LoopPlace(KIND, unguessable(), node)
    try:
        request = pipe_pb2.PipeMake(name=place.name)
        made = await place.run(pipe_pb2_grpc.PipeStub, lambda stub: stub.Make(request, timeout=ANSWER))
    finally:
        await place.close()
    name = f"{made.name}@{made.node}"
    return PipeEnd(name, READ, node), PipeEnd(name, WRITE, node)
