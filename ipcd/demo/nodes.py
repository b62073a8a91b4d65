"""Nodes: real `ipcd run` processes on this machine, and the demo's two, which find each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import ipcd_client
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

from ipcd.demo.processes import Child, Children, StageError

UP = 15.0  # seconds for a daemon to answer: an interpreter and its imports, on a busy machine
FOUND = 5.0  # seconds for the nodes to find each other before one is told where the other is
LOOK = 0.5  # seconds between looks whether a daemon that does not answer yet is still alive
POLL = 0.05  # seconds between looks whether one node knows the other


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers."""

    name: str
    socket: Path
    listen: str  # HOST:PORT, for --peer
    process: Child


@dataclass(frozen=True, slots=True)
class NodePair:
    """Two nodes that know each other."""

    a: Node
    b: Node
    how: str  # "zeroconf" or "--peer"
    seconds: float  # that it took them, from both answering to each knowing the other


def start_pair(children: Children, directory: Path, tell: Callable[[str], None]) -> NodePair:
    """Start both and wait until they know each other; `tell` is given a line for each step.

    Raises StageError where one does not come up, or they don't find each other though one was told of the other.
    """
    # Of its own: the user's own node, or another demo, may be found on the same interface.
    cluster = f"demo-{os.getpid()}"
    started = {name: begin(children, name, directory, cluster) for name in ("a", "b")}
    a, b = (up(name, directory, process) for name, process in started.items())
    for node in (a, b):
        tell(f"node {node.name}: process {node.process.pid}, listening on {node.listen}")
    began = time.monotonic()
    if _know_each_other(a, b, FOUND):
        seconds = time.monotonic() - began
        tell(f"they found each other by zeroconf on the loopback interface, in {seconds:.1f} s")
        return NodePair(a, b, "zeroconf", seconds)
    tell(f"they have not found each other by zeroconf in {FOUND:.0f} s: starting b again with --peer {a.listen}")
    children.stop(b.process)
    began = time.monotonic()
    b = up(b.name, directory, begin(children, b.name, directory, cluster, "--peer", a.listen))
    if not _know_each_other(a, b, FOUND):
        raise StageError(f"node {b.name} has not reached node {a.name} at {a.listen} in {FOUND:.0f} s")
    return NodePair(a, b, "--peer", time.monotonic() - began)


def begin(children: Children, name: str, directory: Path, cluster: str, *more: str) -> Child:
    """The process of a node, started but not waited for. `more` are further arguments of `ipcd run`."""
    return children.start(
        f"node {name}",
        *("-m", "ipcd", "run", "--node", name, "--cluster", cluster),
        *("--socket", str(_socket(name, directory)), "--listen", "127.0.0.1:0"),
        *more,
    )


def _socket(name: str, directory: Path) -> Path:
    return directory / f"{name}.sock"


def up(name: str, directory: Path, process: Child) -> Node:
    """The node that `begin` has started, once it answers; raises StageError where it does not come to that."""
    until = time.monotonic() + UP
    socket = _socket(name, directory)
    with ipcd_client.channel("ipcd-node:", node=str(socket)) as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        while True:
            try:
                status = stub.Status(node_pb2.StatusRequest(), timeout=LOOK, wait_for_ready=True)
            except grpc.RpcError as error:
                process.check_running()
                if time.monotonic() > until:
                    raise StageError(f"node {name} does not answer after {UP:.0f} s: {error}") from None
            else:
                return Node(name, socket, status.listen, process)


def _know_each_other(a: Node, b: Node, seconds: float) -> bool:
    until = time.monotonic() + seconds
    return knows(a, b, until) and knows(b, a, until)


def knows(node: Node, other: Node, until: float) -> bool:
    """Whether `node` has a link with `other` before then, a time of time.monotonic(); raises StageError where it ends
    meanwhile."""
    with ipcd_client.channel("ipcd-node:", node=str(node.socket)) as channel:
        stub = node_pb2_grpc.NodeStub(channel)
        while True:
            try:
                nodes = stub.ListNodes(node_pb2.ListNodesRequest(), timeout=UP).nodes
            except grpc.RpcError as error:
                node.process.check_running()
                raise StageError(f"node {node.name} does not answer any more: {error}") from None
            if any(one.node == other.name and one.state == one.STATE_LINKED for one in nodes):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(POLL)
