"""Pieces of large values on their way from and to those who call: each has its time, so that nobody holds memory by
being slow."""

from __future__ import annotations

import asyncio
from typing import Any

from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import value_pb2
from ipcd_client.primitives.errors import TimedOut

from ipcd import limits


async def received(context: CalledContext) -> Any:
    """The next request; `grpc.aio.EOF` when there are no more.

    Raises:
        TimedOut: it did not come.
    """
    try:
        async with asyncio.timeout(limits.VALUE_PIECE):
            return await context.read()
    except TimeoutError:
        raise TimedOut(f"no further piece of the value came within {limits.VALUE_PIECE:g} s") from None


async def sent(context: CalledContext, reply: value_pb2.ValueReply) -> None:
    """The next reply is on its way.

    Raises:
        TimedOut: the caller takes none.
    """
    try:
        async with asyncio.timeout(limits.VALUE_PIECE):
            await context.write(reply)
    except TimeoutError:
        raise TimedOut(f"no further piece of the value was taken within {limits.VALUE_PIECE:g} s") from None
