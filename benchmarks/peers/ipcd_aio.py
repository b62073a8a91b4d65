"""ipcd on an event loop: `ipcd_client.aio.server` and `ipcd_client.aio.channel`, of grpc.aio's shape."""

from __future__ import annotations

import asyncio

from ipcd_client import aio

from benchmarks.peers.base import PATIENCE, Place, Taken
from benchmarks.peers.grpc_aio import AioClient, AioServer
from benchmarks.peers.grpc_sync import OPTIONS
from ipcd.demo.service import SERVICE


async def serve(place: Place) -> AioServer:
    """A server on its node, of a name that no other has."""
    server = aio.server(name=place.name, node=place.node, options=OPTIONS)
    return await AioServer(server, f"ipcd:///{place.name}").start()


async def connect(place: Place) -> AioClient:
    """A channel of the transport asked for, and nothing else; raises IpcdError where it is not to be had."""
    channel = aio.channel(place.address, node=place.caller_node, transport=place.socket, options=OPTIONS)
    try:
        async with asyncio.timeout(PATIENCE):
            route = await channel.route(SERVICE)
    except BaseException:
        await channel.close()
        raise
    return AioClient(channel, Taken(route.transport, route.reason))
