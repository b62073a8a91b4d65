"""grpcio: `grpc.server` and `grpc.insecure_channel`."""

from __future__ import annotations

import grpc

from benchmarks.peers.base import Place, Taken
from benchmarks.peers.grpc_sync import OPTIONS, GrpcClient, GrpcServer, executor


def serve(place: Place) -> GrpcServer:
    """On the kind of socket that the place asks for."""
    server = grpc.server(executor(), options=OPTIONS)
    if place.socket == "unix":
        address = f"unix:{place.path('grpc')}"
        server.add_insecure_port(address)
    else:
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    return GrpcServer(server, address)


def connect(place: Place) -> GrpcClient:
    """A channel of its own connection."""
    channel = grpc.insecure_channel(place.address, options=OPTIONS)
    return GrpcClient(channel, Taken(place.socket, "the address asks for it"))
