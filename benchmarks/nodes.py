"""The nodes of a run: real `ipcd run` processes on loopback, told of each other, so that nothing is announced."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import ipcd_client
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

from ipcd.demo.processes import Child, Children, StageError

UP = 20.0  # seconds for a daemon to answer: an interpreter and its imports, on a busy machine
LINKED = 10.0  # seconds for a node to reach the one it was told of
LOOK = 0.5  # seconds for one question


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers."""

    name: str
    socket: str
    listen: str  # HOST:PORT, for --peer
    process: Child


def start(children: Children, directory: Path, name: str, *peers: Node) -> Node:
    """A node that answers and is linked with `peers`; raises StageError where it does not come to that."""
    socket = str(directory / f"node-{name}")
    process = children.start(
        f"node {name}",
        *("-m", "ipcd", "run", "--node", name, "--cluster", f"bench-{os.getpid()}"),
        *("--socket", socket, "--listen", "127.0.0.1:0", "--no-discovery"),
        *(word for peer in peers for word in ("--peer", peer.listen)),
    )
    with ipcd_client.channel("ipcd-node:", node=socket) as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        node = Node(name, socket, _listen(stub, process), process)
        for peer in peers:
            _wait_linked(stub, node, peer)
    return node


def _listen(stub: node_pb2_grpc.NodeStub, process: Child) -> str:
    until = time.monotonic() + UP
    while True:
        try:
            listen: str = stub.Status(node_pb2.StatusRequest(), timeout=LOOK, wait_for_ready=True).listen
        except grpc.RpcError as error:
            process.check_running()
            if time.monotonic() > until:
                raise StageError(f"{process.name} does not answer after {UP:.0f} s: {error}") from None
        else:
            return listen


def _wait_linked(stub: node_pb2_grpc.NodeStub, node: Node, peer: Node) -> None:
    until = time.monotonic() + LINKED
    while True:
        nodes = stub.ListNodes(node_pb2.ListNodesRequest(), timeout=UP).nodes
        if any(one.node == peer.name and one.state == one.STATE_LINKED for one in nodes):
            return
        node.process.check_running()
        if time.monotonic() > until:
            raise StageError(f"node {node.name} has not reached node {peer.name} in {LINKED:.0f} s")
        time.sleep(0.05)
