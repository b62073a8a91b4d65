"""ipcd: `ipcd_client.server` and `ipcd_client.channel`."""

from __future__ import annotations

import ipcd_client

from benchmarks.peers.base import PATIENCE, Place, Taken
from benchmarks.peers.grpc_sync import OPTIONS, GrpcClient, GrpcServer, executor
from ipcd.demo.service import SERVICE


def serve(place: Place) -> GrpcServer:
    """A server on its node, of a name that no other has."""
    server = ipcd_client.server(executor(), name=place.name, node=place.node, options=OPTIONS)
    return GrpcServer(server, f"ipcd:///{place.name}")


def connect(place: Place) -> GrpcClient:
    """A channel of the transport asked for, and nothing else; raises IpcdError where it is not to be had."""
    channel = ipcd_client.channel(place.address, node=place.caller_node, transport=place.socket, options=OPTIONS)
    try:
        route = channel.route(SERVICE, PATIENCE)
    except BaseException:
        channel.close()
        raise
    return GrpcClient(channel, Taken(route.transport, route.reason))
