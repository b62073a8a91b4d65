"""`ipcctl explain`: where calls of a service go from here, over what, and why."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ipcd_client.access import identity
from ipcd_client.cli import catalog
from ipcd_client.cli.failures import NO, Failure, from_error
from ipcd_client.cli.jsoncall import split_path
from ipcd_client.cli.output import Output, duration, microseconds
from ipcd_client.cli.session import Pins, Session, common, complete_service, pass_session, pinned

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node
    from ipcd_client.node.router import Route
    from ipcd_client.pb.ipcd.v1 import node_pb2


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that was really made. Times in seconds."""

    route: Route
    took: float
    round_trip: float


@click.command("explain")
@click.argument("service", shell_complete=complete_service)
@pinned
@click.option(
    "--as",
    "caller",
    metavar="IDENTITY",
    default="",
    help="As if this one called: spiffe://CLUSTER/node/NODE/uid/UID, or uid:UID for a user of this node.",
)
@common
@pass_session
def explain(session: Session, service: str, pins: Pins, caller: str) -> None:
    """Where calls of SERVICE go from here, over what, and why.

    A connection is really opened, as a stub's first call would, and one round trip is timed. Exit code 1 if there is
    no server to open it to, 4 if there is one but it cannot be reached.

    With --as nothing is opened: it says where the calls of somebody else would go, and which rule of this node keeps
    them from a server. What another node's rules say is known there alone: ask there. Exit code 1 if they would go
    nowhere.

    A command is a server of ipcd.v1.Command, chosen by --server.

    \b
    Examples:
      ipcctl explain lab.v1.Lab
      ipcctl explain lab.v1.Lab --node b --transport tcp
      ipcctl explain lab.v1.Lab --as uid:1001
      ipcctl explain ipcd.v1.Command --server wc --as uid:1001
      ipcctl explain lab.v1.Lab -o json | jq -r .transport
    """
    service, _ = split_path(service)
    opened: Opened | None = None
    with session.node() as node:
        if caller:
            status = node.status()
            caller = str(identity.asked(caller, status.cluster, status.node))
        candidates, failure = _resolved(node, service, pins, caller)
        if failure is None and caller:
            failure = _refused(candidates)
        elif failure is None:
            try:
                opened = _open(node, service, pins, session.wait)
            except Exception as error:
                failure = from_error(error, f"cannot open a connection for {service}")
                if failure is None:
                    raise
        others = _others(node, service, pins, candidates, opened)
    _show(session.output, _as_json(service, pins, caller, opened, others, failure), opened)
    if failure is not None:
        raise failure


def _resolved(node: Node, service: str, pins: Pins, caller: str) -> tuple[list[node_pb2.Candidate], Failure | None]:
    """What the daemon would choose from, or why it has nothing to."""
    import grpc

    from ipcd_client.rpc.failure import CallFailed

    try:
        return node.resolve(service, pins, caller), None
    except CallFailed as error:
        if error.code is grpc.StatusCode.FAILED_PRECONDITION:
            # There are servers, but none that the wanted transport reaches.
            return [], Failure(error.details, "NO_SERVER", NO, service=service, nodes=catalog.names(node))
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise
        if not node.servers(service):
            return [], catalog.no_server(node, service)
        return [], Failure(error.details, "NO_SERVER", NO, service=service, nodes=catalog.names(node))


def _refused(candidates: list[node_pb2.Candidate]) -> Failure | None:
    if any(not each.refusal for each in candidates):
        return None
    return Failure(candidates[0].refusal, "PERMISSION_DENIED", NO)


def _open(node: Node, service: str, pins: Pins, timeout: float) -> Opened:
    begin = monotonic()
    route = node.channel(pins).route(service, timeout)
    took = monotonic() - begin
    return Opened(route, took, route.connection.ping(timeout))


def _others(
    node: Node, service: str, pins: Pins, candidates: list[node_pb2.Candidate], opened: Opened | None
) -> list[dict[str, Any]]:
    """Every server of the service, with why it was taken or not; the one that was taken comes first."""
    from ipcd_client.node.introduction import TRANSPORT_NAMES

    taken = opened.route.server.id if opened else None
    found = [
        {
            **catalog.server_facts(each.server),
            "transport": TRANSPORT_NAMES.get(each.transport, str(each.transport)),
            "connections": each.connections,
            # Where nothing was opened, it is what would be taken.
            "chosen": each.server.id == taken if opened else each.chosen,
            "reason": each.reason,
            "refusal": each.refusal or None,
        }
        for each in candidates
    ]
    known = {each["id"] for each in found}
    # Those that the pins rule out are no candidates of the daemon's, but are what the person may be looking for.
    found += [
        {
            **catalog.server_facts(server),
            "transport": None,
            "connections": None,
            "chosen": False,
            "reason": _excluded(server, pins),
            "refusal": None,
        }
        for server in node.servers(service)
        if server.id not in known
    ]
    for each in found:
        if opened and each["chosen"]:
            # The daemon chose once for the list and once for the connection; the connection is what counts.
            each["transport"], each["reason"] = opened.route.transport, opened.route.reason
    return sorted(found, key=lambda each: not each["chosen"])


def _excluded(server: node_pb2.Server, pins: Pins) -> str:
    if pins.node and server.process.node != pins.node:
        return f"not on node {pins.node}, which was asked for"
    if pins.server and server.name != pins.server:
        return f"not called {pins.server!r}, which was asked for"
    if pins.transport != "auto":
        return f"not reached over {pins.transport}, which was asked for"
    return "it came or went while this was looked up"


def _as_json(
    service: str,
    pins: Pins,
    caller: str,
    opened: Opened | None,
    others: list[dict[str, Any]],
    failure: Failure | None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {"service": service}
    chosen = next((each for each in others if each["chosen"]), None) if caller else None
    if opened is not None:
        facts |= catalog.server_facts(opened.route.server)
        facts |= {"transport": opened.route.transport, "reason": opened.route.reason}
    elif chosen is not None:
        facts |= {key: chosen[key] for key in ("node", "server", "pid", "uid", "id", "transport", "reason")}
    else:
        facts |= dict.fromkeys(("node", "server", "pid", "uid", "id", "transport"))
        facts["reason"] = failure.text if failure else ""
    return {
        **facts,
        "open_us": microseconds(opened.took) if opened else None,
        "round_trip_us": microseconds(opened.round_trip) if opened else None,
        "asked": {**pins.as_json(), "as": caller or None},
        "candidates": others,
    }


def _show(output: Output, facts: dict[str, Any], opened: Opened | None) -> None:
    if output.json:
        output.document(facts)
        return
    caller = facts["asked"]["as"]
    chosen = opened is not None or (caller and any(each["chosen"] for each in facts["candidates"]))
    others = [each for each in facts["candidates"] if not each["chosen"]]
    if chosen:
        output.line(facts["service"])
        output.facts(
            [
                *([("called by", caller)] if caller else []),
                ("node", facts["node"]),
                ("server", facts["server"] or "(unnamed)"),
                ("process", f"pid {facts['pid']}, uid {facts['uid']}"),
                ("transport", facts["transport"]),
                ("why", facts["reason"]),
                *(
                    [("opened in", duration(opened.took)), ("round trip", duration(opened.round_trip))]
                    if opened is not None
                    else []
                ),
            ]
        )
        if not others:
            output.line("no other candidate")
            return
        output.line()
    if others:
        output.line("other candidates" if chosen else f"the servers of {facts['service']}")
        rows = [
            [each["node"], each["server"] or "", str(each["pid"]), each["transport"] or "", each["reason"]]
            for each in others
        ]
        output.table(["NODE", "SERVER", "PID", "TRANSPORT", "WHY NOT"], rows, right=[2])
