"""ipcd on an event loop: `ipcd_client.aio.server` and `ipcd_client.aio.channel`, of grpc.aio's shape."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from benchmarks.peers.base import PATIENCE, Place, Taken, UnsupportedError
from benchmarks.peers.grpc_aio import AioClient, AioServer
from benchmarks.peers.grpc_sync import OPTIONS
from ipcd.demo.service import SERVICE


def _made(name: str) -> Any:
    """`ipcd_client.aio.NAME`; looked up by name, because a release without it is to be told of, not to fail."""
    made = getattr(importlib.import_module("ipcd_client.aio"), name, None)
    if not callable(made):
        raise UnsupportedError(f"this ipcd has no ipcd_client.aio.{name}")
    return made


async def serve(place: Place) -> AioServer:
    """A server on its node, of a name that no other has."""
    server = _made("server")(name=place.name, node=place.node, options=OPTIONS)
    return await AioServer(server, f"ipcd:///{place.name}").start()


async def connect(place: Place) -> AioClient:
    """A channel of the transport asked for, and nothing else; raises IpcdError where it is not to be had."""
    channel = _made("channel")(place.address, node=place.caller_node, transport=place.socket, options=OPTIONS)
    # What it took can be asked where the channel has what its sync twin has.
    ask = getattr(channel, "route", None)
    if ask is None:
        return AioClient(channel, Taken(place.socket, "asked for; the channel does not say what it took"))
    route = ask(SERVICE, PATIENCE)
    if inspect.isawaitable(route):
        route = await route
    return AioClient(channel, Taken(route.transport, route.reason))
