"""ipcd's client library: grpc channels and servers that find each other through the node's daemon.

>>> import ipcd_client
>>> server = ipcd_client.server()           # a grpc.Server
>>> channel = ipcd_client.channel()         # a grpc.Channel
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final

import grpc

from ipcd_client._version import __version__
from ipcd_client.facade.channel import Channel
from ipcd_client.facade.server import Server

if TYPE_CHECKING:
    from ipcd_client import aio as aio
    from ipcd_client.primitives.command import command as command
    from ipcd_client.primitives.lock import lock as lock
    from ipcd_client.primitives.pipe import pipe as pipe
    from ipcd_client.primitives.pipe_end import pipe_end as pipe_end
    from ipcd_client.primitives.queue import queue as queue
    from ipcd_client.primitives.semaphore import semaphore as semaphore
    from ipcd_client.primitives.signal import signal as signal
    from ipcd_client.primitives.topic import topic as topic
    from ipcd_client.primitives.unnamed_pipe import unnamed_pipe as unnamed_pipe
    from ipcd_client.primitives.value import value as value
    from ipcd_client.primitives.watch_exit import watch_exit as watch_exit

# Each is loaded when it is first used, and so is `aio`: programs that only call services are spared it.
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

__all__ = ["Channel", "Server", "__version__", "channel", "server"]


def __getattr__(name: str) -> Any:
    if name in _PRIMITIVES:
        return getattr(importlib.import_module(f"{__name__}.primitives.{name}"), name)
    if name == "aio":
        return importlib.import_module(f"{__name__}.aio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def server(
    executor: Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[grpc.ServerInterceptor] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    xds: bool = False,
    *,
    name: str | None = None,
    node: str | None = None,
) -> Server:
    """A `grpc.Server` that callers find through the node.

    Args:
        executor: its threads run the handlers. Default: a pool of 32 threads, made as they are needed.
        handlers, interceptors, options, maximum_concurrent_rpcs: as of `grpc.server`. Of the options,
            `grpc.max_receive_message_length`, `grpc.max_send_message_length`, `grpc.max_metadata_size` (bytes) and
            `grpc.max_concurrent_streams` (calls of one connection) mean something here.
        compression: of calls over the ports that `add_insecure_port` adds; others are not compressed.
        xds: must be False.
        name: what this server is called, for callers that want it and no other.
        node: path of the daemon's socket. Default: $IPCD_SOCKET, else $XDG_RUNTIME_DIR/ipcd/ipcd.sock, else
            /run/ipcd/ipcd.sock.

    Raises:
        ValueError: an argument is wrong.
    """
    if xds:
        raise ValueError("xds=True: servers are found through the node here")
    return Server(
        executor,
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
) -> Channel:
    """A `grpc.Channel` each of whose calls goes to a server of the called service.

    Args:
        target: `ipcd:[//NODE]/[SERVER]`. "ipcd:" is any server of the called service, "ipcd://b" only one on node b,
            "ipcd:///canary" only one of that name. "ipcd-node:" is the daemon's own API.
        node: path of the daemon's socket; the default is that of `server`.
        transport: "auto", or "shm", "unix", "tcp": that one, or an error.
        options: as of `server`.

    Raises:
        ConfigError: the target or transport is not of these.
    """
    return Channel(target, node=node, transport=transport, options=options)
