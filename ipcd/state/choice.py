"""Which server a caller gets, over what, and why. Pure.

Pinned to a node or a server's name; else one on the caller's own node, else one on another; one of weight 0 only where
there is no other. Among equals the one with the fewest connections granted for its weight, then the one whose last turn
is longest ago. A channel does not stay with the one chosen: it spreads its calls over all those that are preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import grpc
from ipcd_client.errors import IpcdError, NodeError
from ipcd_client.pb.ipcd.v1 import node_pb2

SHM: Final = node_pb2.TRANSPORT_SHM
UNIX: Final = node_pb2.TRANSPORT_UNIX
TCP: Final = node_pb2.TRANSPORT_TCP
NAMES: Final = {
    node_pb2.TRANSPORT_UNSPECIFIED: "auto",
    SHM: "shm",
    UNIX: "unix",
    TCP: "tcp",
}


class NoServer(NodeError):
    """Nobody serves it, at present."""


class Impossible(IpcdError):
    """The transport asked for cannot reach any server of the service."""

    code = grpc.StatusCode.FAILED_PRECONDITION


def unshared(caller: node_pb2.Process | None, server: node_pb2.Process, trusted: Collection[int]) -> str:
    """Why two processes of one node share no memory; empty if they may: they are the same user's, or both those of
    users that the configuration trusts (`shm_uids`). None for a caller who is not a process of this machine."""
    if caller is None:
        return "the caller is no process of this machine"
    if caller.uid == server.uid or (caller.uid in trusted and server.uid in trusted):
        return ""
    return f"memory is shared within one user, the caller's uid is {caller.uid}, the server's {server.uid}"


def rank(
    target: node_pb2.ResolveRequest,
    servers: Iterable[node_pb2.Server],
    here: str,
    connections: Callable[[str], int],
    turn: Callable[[str], int],
    why_unshared: Callable[[node_pb2.Process], str],
    refusal: Callable[[node_pb2.Server], str] = lambda _: "",
) -> list[node_pb2.Candidate]:
    """Every candidate, the best first and marked as chosen. Those that the caller may not call are never chosen; they
    come last.

    `servers`: of the service. `here`: the caller's node. `connections` and `turn`, by a server's id: connections
    granted to it, and when it had its last turn, as a number that grows. `why_unshared`: why a process of the caller's
    node shares no memory with the caller; empty if it may. `refusal`: why the caller may not call it; empty if it may,
    or if that is not known here.

    Raises:
        Impossible: servers there are, but not over the transport asked for.
    """
    fitting = [
        server
        for server in servers
        if (not target.node or server.process.node == target.node)
        and (not target.server or server.name == target.server)
        and (not target.server_id or server.id == target.server_id)
    ]
    reachable = [server for server in fitting if not obstacle(target.transport, server, here, why_unshared)]
    if fitting and not reachable:
        reasons = sorted({obstacle(target.transport, server, here, why_unshared) for server in fitting})
        raise Impossible(f"transport {NAMES.get(target.transport, '?')} for {target.service}: {'; '.join(reasons)}")
    refusals = {server.id: refusal(server) for server in reachable}
    ordered = sorted(
        reachable,
        key=lambda server: (
            bool(refusals[server.id]),
            not server.weight,
            server.process.node != here,
            connections(server.id) / (server.weight or 1),
            turn(server.id),
            server.id,
        ),
    )
    allowed = [server for server in ordered if not refusals[server.id]]
    preferred = _preferred(allowed, here)
    candidates = [
        node_pb2.Candidate(
            server=server,
            transport=transport(target.transport, server, here, why_unshared),
            connections=connections(server.id),
            chosen=index == 0 and bool(allowed),
            preferred=server.id in preferred,
            refusal=refusals[server.id],
        )
        for index, server in enumerate(ordered)
    ]
    for candidate in candidates:
        candidate.reason = candidate.refusal or _reason(candidate, candidates[0], target, here, why_unshared)
    return candidates


def _preferred(ordered: Sequence[node_pb2.Server], here: str) -> set[str]:
    """Ids of those that share the calls of one channel: what is as good as the first; and those on other nodes, where
    one that is near says from how many calls on they help."""
    if not ordered:
        return set()
    first = ordered[0]
    fit = [server for server in ordered if bool(server.weight) == bool(first.weight)]
    near = [server for server in fit if server.process.node == here]
    if near and not any(server.spillover for server in near):
        return {server.id for server in near}
    return {server.id for server in fit}


def obstacle(asked: int, server: node_pb2.Server, here: str, why_unshared: Callable[[node_pb2.Process], str]) -> str:
    """Why the server cannot be reached over the transport; empty if it can."""
    node = server.process.node
    if asked in {SHM, UNIX} and node != here:
        means = "shared memory" if asked == SHM else "a UNIX socket"
        return f"{means} does not reach from node {here} to node {node}"
    if asked == SHM:
        return why_unshared(server.process)
    return "" if asked in NAMES else f"there is no transport {asked}"


def transport(
    asked: int, server: node_pb2.Server, here: str, why_unshared: Callable[[node_pb2.Process], str]
) -> node_pb2.Transport:
    """The one that is taken for a server that can be reached."""
    if server.process.node != here or asked == TCP:
        return TCP
    return UNIX if asked == UNIX or why_unshared(server.process) else SHM


def no_server(target: node_pb2.ResolveRequest, nodes: Sequence[str]) -> NoServer:
    """The error for an empty list of candidates. `nodes`: all known ones."""
    named = f"no server {target.server!r}" if target.server else "no server"
    if target.server_id:
        named += f" with id {target.server_id}"
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
    why_unshared: Callable[[node_pb2.Process], str],
) -> str:
    node = candidate.server.process.node
    if candidate is best:
        over = NAMES[candidate.transport]
        if target.transport == candidate.transport:
            words = f"{over} was asked for"
        elif node == here:
            why_not = why_unshared(candidate.server.process)
            words = f"{over}: caller and server share node {here}{'; ' * bool(why_not)}{why_not}"
        else:
            words = f"{over}: the server is on node {node}, the caller on node {here}"
        pins = [f"node {target.node}"] * bool(target.node) + [f"server {target.server!r}"] * bool(target.server)
        return f"{words}; pinned to {' and '.join(pins)}" if pins else words
    if best.server.weight and not candidate.server.weight:
        return "its weight is 0, and there are others"
    if node != best.server.process.node and best.server.process.node == here:
        if candidate.preferred:
            return f"on node {node}: takes what is over the spillover of those on the caller's own"
        return f"on node {node}, and there is one on the caller's own"
    if candidate.connections != best.connections and candidate.server.weight == best.server.weight:
        return f"{candidate.connections} connections, the chosen one has {best.connections}"
    return "its turn comes later"
