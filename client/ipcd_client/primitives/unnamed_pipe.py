"""Pipes without names, for threads."""

from __future__ import annotations

from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.pipe_end import PipeEnd
from ipcd_client.primitives.pipe_parts import ANSWER, KIND, READ, WRITE, unguessable
from ipcd_client.primitives.place import Place


def unnamed_pipe(*, node: str | None = None) -> tuple[PipeEnd, PipeEnd]:
    """The end that reads and the end that writes of a new pipe, kept by this node. Each can be opened once, in any
    process of any node; an end that nobody has opened within a minute counts as closed.

    Raises:
        LimitReached, NotAllowed, CallFailed: there is none.
    """
    place = Place(KIND, unguessable(), node)
    try:
        request = pipe_pb2.PipeMake(name=place.name)
        made = place.run(pipe_pb2_grpc.PipeStub, lambda stub: stub.Make(request, timeout=ANSWER))
    finally:
        place.close()
    name = f"{made.name}@{made.node}"
    return PipeEnd(name, READ, node), PipeEnd(name, WRITE, node)
