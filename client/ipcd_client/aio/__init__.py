"""grpc.aio's shapes: channels and servers for programs with an event loop.

>>> import ipcd_client.aio
>>> async with ipcd_client.aio.channel() as channel:         # a grpc.aio.Channel
...     stub = lab_pb2_grpc.LabStub(channel)
...     await stub.Echo(lab_pb2.Payload(data=b"hello"))
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final

import grpc

from ipcd_client.aio.channel import Channel
from ipcd_client.aio.server import Server

if TYPE_CHECKING:
    from ipcd_client.primitives.loop_command import command as command
    from ipcd_client.primitives.loop_lock import lock as lock
    from ipcd_client.primitives.loop_pipe import pipe as pipe
    from ipcd_client.primitives.loop_pipe_end import pipe_end as pipe_end
    from ipcd_client.primitives.loop_queue import queue as queue
    from ipcd_client.primitives.loop_semaphore import semaphore as semaphore
    from ipcd_client.primitives.loop_signal import signal as signal
    from ipcd_client.primitives.loop_topic import topic as topic
    from ipcd_client.primitives.loop_unnamed_pipe import unnamed_pipe as unnamed_pipe
    from ipcd_client.primitives.loop_value import value as value
    from ipcd_client.primitives.loop_watch_exit import watch_exit as watch_exit

# Each is loaded when it is first used: programs that only call services are spared it.
_PRIMITIVES: Final[frozenset[str]] = frozenset(
    {
        "command",
        "lock",
        "pipe",
        "pipe_end",
        "queue",
        "semaphore",
        "signal",
        "topic",
        "unnamed_pipe",
        "value",
        "watch_exit",
    }
)

__all__ = ["Channel", "Server", "channel", "server"]


def __getattr__(name: str) -> Any:
    if name in _PRIMITIVES:
        return getattr(importlib.import_module(f"ipcd_client.primitives.loop_{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def server(
    migration_thread_pool: Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    *,
    name: str | None = None,
    node: str | None = None,
) -> Server:
    """A `grpc.aio.Server` that callers find through the node.

    It belongs to the event loop that starts it. Its arguments are those of `grpc.aio.server`; of the options, the same
    mean something here as of `ipcd_client.server`.

    Args:
        migration_thread_pool: its threads run the handlers that are not made for event loops. Default: the loop's own.
        compression: for the ports, if there are any; what goes through the node is not compressed.
        name, node: those of `ipcd_client.server`.

    Raises:
        ValueError: an argument is wrong.
    """
    return Server(
        migration_thread_pool,
        name=name,
        node=node,
        handlers=handlers,
        interceptors=interceptors,
        options=options,
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
        compression=compression,
    )


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
