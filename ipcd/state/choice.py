"""Which server a caller gets, over what, and why. Pure.

Pinned to a node or a server's name; else one on the caller's own node, else one on another. Among equals the one with
the fewest connections granted, then the one whose last turn is longest ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import grpc
from ipcd_client.errors import IpcdError, NodeError
from ipcd_client.pb.ipcd.v1 import node_pb2

UNIX: Final = node_pb2.TRANSPORT_UNIX
TCP: Final = node_pb2.TRANSPORT_TCP
NAMES: Final = {
    node_pb2.TRANSPORT_UNSPECIFIED: "auto",
    node_pb2.TRANSPORT_SHM: "shm",
    UNIX: "unix",
    TCP: "tcp",
}


class NoServer(NodeError):
    """Nobody serves it, at present."""


class Impossible(IpcdError):
    """The transport asked for cannot reach any server of the service."""

    code = grpc.StatusCode.FAILED_PRECONDITION


def rank(
    target: node_pb2.ResolveRequest,
    servers: Iterable[node_pb2.Server],
    here: str,
    connections: Callable[[str], int],
    turn: Callable[[str], int],
) -> list[node_pb2.Candidate]:
    """Every candidate, the best first and marked as chosen.

    `servers`: of the service. `here`: the caller's node. `connections` and `turn`, by a server's id: connections
    granted to it, and when it had its last turn, as a number that grows.

    Raises:
        Impossible: servers there are, but not over the transport asked for.
    """
    fitting = [
        server
        for server in servers
        if (not target.node or server.process.node == target.node)
        and (not target.server or server.name == target.server)
    ]
    reachable = [server for server in fitting if not obstacle(target.transport, server, here)]
    if fitting and not reachable:
        reasons = sorted({obstacle(target.transport, server, here) for server in fitting})
        raise Impossible(f"transport {NAMES.get(target.transport, '?')} for {target.service}: {'; '.join(reasons)}")
    ordered = sorted(
        reachable,
        key=lambda server: (server.process.node != here, connections(server.id), turn(server.id), server.id),
    )
    candidates = [
        node_pb2.Candidate(
            server=server,
            transport=transport(target.transport, server, here),
            connections=connections(server.id),
            chosen=index == 0,
        )
        for index, server in enumerate(ordered)
    ]
    for candidate in candidates:
        candidate.reason = _reason(candidate, candidates[0], target, here)
    return candidates


def obstacle(asked: int, server: node_pb2.Server, here: str) -> str:
    """Why the server cannot be reached over the transport; empty if it can."""
    node = server.process.node
    if asked == node_pb2.TRANSPORT_SHM:
        return "this node offers no shared memory"
    if asked == UNIX and node != here:
        return f"a UNIX socket does not reach from node {here} to node {node}"
    return "" if asked in NAMES else f"there is no transport {asked}"


def transport(asked: int, server: node_pb2.Server, here: str) -> node_pb2.Transport:
    """The one that is taken for a server that can be reached."""
    return UNIX if server.process.node == here and asked != TCP else TCP


def no_server(target: node_pb2.ResolveRequest, nodes: Sequence[str]) -> NoServer:
    """The error for an empty list of candidates. `nodes`: all known ones."""
    named = f"no server {target.server!r}" if target.server else "no server"
    if not target.node:
        return NoServer(f"{named} for {target.service} on node{'s' * (len(nodes) > 1)} {', '.join(nodes)}")
    if target.node not in nodes:
        return NoServer(f"node {target.node} is not known; the known ones are {', '.join(nodes)}")
    return NoServer(f"{named} for {target.service} on node {target.node}")


def _reason(
    candidate: node_pb2.Candidate,
    best: node_pb2.Candidate,
    target: node_pb2.ResolveRequest,
    here: str,
) -> str:
    node = candidate.server.process.node
    if candidate is best:
        over = NAMES[candidate.transport]
        if target.transport == candidate.transport:
            words = f"{over} was asked for"
        elif node == here:
            words = f"{over}: caller and server share node {here}"
        else:
            words = f"{over}: the server is on node {node}, the caller on node {here}"
        pins = [f"node {target.node}"] * bool(target.node) + [f"server {target.server!r}"] * bool(target.server)
        return f"{words}; pinned to {' and '.join(pins)}" if pins else words
    if node != best.server.process.node and best.server.process.node == here:
        return f"on node {node}, and there is one on the caller's own"
    if candidate.connections != best.connections:
        return f"{candidate.connections} connections, the chosen one has {best.connections}"
    return "its turn comes later"
