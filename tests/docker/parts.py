"""What the observer does: ask nodes by their sockets, which it has below /nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import ipcd_client
from cluster.parts import Desk
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

# Seconds; a node that is starting has them to come up.
PATIENCE = 20.0


class Seen(NamedTuple):
    """A node, as another knows it. The state is as `ipcctl nodes` says it."""

    name: str
    state: str
    incarnation: str
    address: str


class Provided(NamedTuple):
    """A service of a server, in a node's catalog."""

    node: str
    server: str
    service: str


@contextlib.contextmanager
def _api(node: str) -> Iterator[node_pb2_grpc.NodeStub]:
    with ipcd_client.channel("ipcd-node:", node=f"/nodes/{node}/ipcd.sock") as channel:
        yield node_pb2_grpc.NodeStub(channel)


def nodes(_desk: Desk, node: str) -> list[Seen]:
    """All nodes and addresses that it knows, itself first."""
    with _api(node) as api:
        reply = api.ListNodes(node_pb2.ListNodesRequest(), timeout=PATIENCE, wait_for_ready=True)
        return [
            Seen(
                info.node,
                node_pb2.NodeInfo.State.Name(info.state).removeprefix("STATE_").lower(),
                info.incarnation,
                info.address,
            )
            for info in reply.nodes
        ]


def catalog(_desk: Desk, node: str) -> set[Provided]:
    """Who serves what, as far as it knows."""
    with _api(node) as api:
        reply = api.ListCatalog(node_pb2.ListCatalogRequest(), timeout=PATIENCE, wait_for_ready=True)
        return {
            Provided(server.process.node, server.name, service)
            for server in reply.servers
            for service in server.services
        }
