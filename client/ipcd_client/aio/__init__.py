"""grpc.aio's shapes: channels and servers for programs with an event loop.

>>> import ipcd_client.aio
>>> async with ipcd_client.aio.channel() as channel:         # a grpc.aio.Channel
...     stub = lab_pb2_grpc.LabStub(channel)
...     await stub.Echo(lab_pb2.Payload(data=b"hello"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from ipcd_client.aio.channel import Channel

__all__ = ["Channel", "channel"]


def channel(
    target: str = "ipcd:",
    *,
    node: str | None = None,
    transport: str = "auto",
    options: Sequence[tuple[str, Any]] | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> Channel:
    """A `grpc.aio.Channel` each of whose calls goes to a server of the called service.

    It belongs to the event loop that first uses it. `target`, `node`, `transport` and `options` are those of
    `ipcd_client.channel`; `interceptors` as of `grpc.aio.insecure_channel`.

    Raises:
        ConfigError: the target or transport is not of these.
        ValueError: an interceptor is none of grpc.aio's.
    """
    return Channel(target, node=node, transport=transport, options=options, interceptors=interceptors)
