"""grpcio on an event loop: `grpc.aio`."""

from __future__ import annotations

import grpc.aio

from benchmarks.peers.base import Place, Taken
from benchmarks.peers.grpc_aio import AioClient, AioServer
from benchmarks.peers.grpc_sync import OPTIONS


async def serve(place: Place) -> AioServer:
    """On the kind of socket that the place asks for."""
    server = grpc.aio.server(options=OPTIONS)
    if place.socket == "unix":
        address = f"unix:{place.path('grpc-aio')}"
        server.add_insecure_port(address)
    else:
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    return await AioServer(server, address).start()


async def connect(place: Place) -> AioClient:
    """A channel of its own connection."""
    channel = grpc.aio.insecure_channel(place.address, options=OPTIONS)
    return AioClient(channel, Taken(place.socket, "the address asks for it"))
