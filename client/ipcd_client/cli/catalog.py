"""`ipcctl ls` and `ipcctl nodes`: what the daemon knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ipcd_client.cli.failures import NO, Failure
from ipcd_client.cli.jsoncall import did_you_mean
from ipcd_client.cli.output import duration, microseconds
from ipcd_client.cli.session import Session, common, complete_service, pass_session

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node
    from ipcd_client.pb.ipcd.v1 import node_pb2

_COLOURS: Final = {"linked": "green", "suspect": "yellow", "connecting": "red"}


@click.command("ls")
@click.argument("service", default="", shell_complete=complete_service)
@common
@pass_session
def ls(session: Session, service: str) -> None:
    """Who serves what, on every node.

    Exit code 1 if SERVICE is given and nobody serves it.

    \b
    Examples:
      ipcctl ls
      ipcctl ls lab.v1.Lab
      ipcctl ls -o json | jq -r '.[].service' | sort -u
    """
    with session.node() as node:
        servers = node.servers(service)
        rows = _rows(servers, service)
        failure = no_server(node, service) if service and not rows else None
        nodes = [] if rows else names(node)
    if session.output.json:
        session.output.document(rows)
    elif rows:
        shown = [
            [row["service"] or "", row["server"] or "", row["node"], str(row["pid"]), str(row["uid"])] for row in rows
        ]
        session.output.table(["SERVICE", "SERVER", "NODE", "PID", "UID"], shown, right=[3, 4])
    if failure is not None:
        raise failure
    if not rows:
        session.output.remark(f"nobody serves anything on {_nodes(nodes)}")


@click.command("nodes")
@common
@pass_session
def nodes(session: Session) -> None:
    """Which nodes the daemon knows, and how well it reaches them.

    \b
    States: self; connecting (found, no link yet); linked; suspect (linked, but its heartbeats are late).
    Link: out where this node dialed, in where the other one did. Clock: how far the other's is ahead, and how far off
    that may be; nothing depends on it. Proof, of who the other is: tls (its certificate); loopback (none, but it can
    only be on this machine); insecure (none).

    \b
    Examples:
      ipcctl nodes
      ipcctl nodes -o json | jq -r '.[] | select(.state != "linked") | .node'
    """
    with session.node() as node:
        found = [_node(info) for info in node.nodes()]
    if session.output.json:
        session.output.document(found)
        return
    headings = ["NODE", "STATE", "ADDRESS", "VERSION", "LINK", "RTT", "CLOCK", "FOR", "SERVERS", "FOUND BY", "PROOF"]
    rows = [
        [
            one["node"],
            one["state"],
            one["address"] or "",
            one["version"] or "",
            one["link"] or "",
            "" if one["rtt_us"] is None else duration(one["rtt_us"] / 1e6),
            _clock(one),
            duration(one["age_seconds"]),
            str(one["servers"]),
            one["source"],
            one["security"] or "",
        ]
        for one in found
    ]
    if any(one["error"] for one in found):
        headings.append("LAST ERROR")
        for row, one in zip(rows, found, strict=True):
            row.append(one["error"] or "")
    session.output.table(headings, rows, right=[5, 6, 7, 8], colours=_COLOURS)


def names(node: Node) -> list[str]:
    """The names of all nodes, the own one first."""
    # A place where nobody has been met has none, and one that two claim is one.
    return list(dict.fromkeys(info.node for info in node.nodes() if info.node))


def no_server(node: Node, service: str) -> Failure:
    """The answer when nobody serves it: where that was looked for, and what might have been meant."""
    known = names(node)
    guess = did_you_mean(service, node.services())
    return Failure(f"no server for {service} on {_nodes(known)}{guess}", "NO_SERVER", NO, service=service, nodes=known)


def server_facts(server: node_pb2.Server) -> dict[str, Any]:
    """A server in JSON. An empty name is null."""
    process = server.process
    return {
        "node": process.node,
        "server": server.name or None,
        "pid": process.pid,
        "uid": process.uid,
        "id": server.id,
    }


def _rows(servers: list[node_pb2.Server], service: str) -> list[dict[str, Any]]:
    rows = [
        {"service": name or None, **server_facts(server)}
        for server in servers
        # A server that has registered nothing yet is shown all the same.
        for name in server.services or [""]
        if not service or name == service
    ]
    return sorted(rows, key=lambda row: (row["service"] or "", row["node"], row["server"] or "", row["pid"], row["id"]))


def _node(info: node_pb2.NodeInfo) -> dict[str, Any]:
    return {
        "node": info.node,
        "state": state_name(info),
        "address": info.address or None,
        "version": info.version or None,
        "rtt_us": microseconds(info.rtt) if info.rtt else None,
        "clock_offset_us": microseconds(info.clock_offset) if info.HasField("clock_offset") else None,
        "clock_error_us": microseconds(info.clock_error) if info.HasField("clock_offset") else None,
        "age_seconds": round(info.age, 3),
        "servers": info.servers,
        "source": info.source,
        "link": _direction(info),
        "dialed": info.dialed,
        "incarnation": info.incarnation or None,
        "security": info.security or None,
        "certificate_expires": round(info.certificate_expires) or None,
        "error": info.error or None,
    }


def _direction(info: node_pb2.NodeInfo) -> str | None:
    if state_name(info) not in {"linked", "suspect"}:
        return None
    return "out" if info.dialed else "in"


def _clock(one: dict[str, Any]) -> str:
    offset, error = one["clock_offset_us"], one["clock_error_us"]
    if offset is None:
        return ""
    return f"{'-' if offset < 0 else '+'}{duration(abs(offset) / 1e6)} (within {duration(error / 1e6)})"


def state_name(info: node_pb2.NodeInfo) -> str:
    """self, connecting, linked, suspect; or a number, of a daemon newer than this program."""
    from ipcd_client.pb.ipcd.v1 import node_pb2

    try:
        return node_pb2.NodeInfo.State.Name(info.state).removeprefix("STATE_").lower()
    except ValueError:
        return str(info.state)


def _nodes(known: list[str]) -> str:
    return f"node{'s' * (len(known) != 1)} {', '.join(known)}"
