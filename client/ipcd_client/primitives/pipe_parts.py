"""What pipes of both faces share: who may wait how long, and the ends of pipes without names."""

from __future__ import annotations

import secrets
from typing import Final

from google.protobuf.message import DecodeError

from ipcd_client.pb.ipcd.v1 import pipe_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.waiting import checked

KIND: Final = "pipe"
READ: Final = "read"
WRITE: Final = "write"
# Seconds for an answer that waits for nothing.
ANSWER: Final = 10.0
_SIDES: Final = {pipe_pb2.PIPE_SIDE_READ: READ, pipe_pb2.PIPE_SIDE_WRITE: WRITE}
_NUMBERS: Final = {side: number for number, side in _SIDES.items()}


def waiting(wait: float | None, *, nonblock: bool) -> float | None:
    """Seconds that an open may wait. 0: it does not."""
    return 0.0 if nonblock else checked(wait)


def unguessable() -> str:
    """A name for a pipe without one."""
    return naming.UNNAMED + secrets.token_hex(16)


def token_of(name: str, side: str) -> bytes:
    """What an end of a pipe without a name is told others with: NAME@NODE and the side, as a message PipeEnd."""
    return pipe_pb2.PipeEnd(name=name, side=_NUMBERS[side]).SerializeToString()


def parsed(token: bytes) -> tuple[str, str]:
    """The name and the side.

    Raises:
        BadRequest: it is no token.
    """
    try:
        end = pipe_pb2.PipeEnd.FromString(token)
        name, node = naming.parse(KIND, end.name)
    except (DecodeError, BadRequest) as error:
        raise BadRequest("that is no end of a pipe") from error
    if not node or not naming.is_unnamed(name) or end.side not in _SIDES:
        raise BadRequest("that is no end of a pipe")
    return end.name, _SIDES[end.side]
