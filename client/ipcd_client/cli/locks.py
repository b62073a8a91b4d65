"""The locks of all nodes, as `ipcctl lock` needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc, names_pb2, names_pb2_grpc
from ipcd_client.primitives import naming
from ipcd_client.primitives.lock_terms import KIND, Info

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node

# Seconds for names.
_ANSWER = 10.0


def names(node: Node) -> list[names_pb2.Name]:
    """Those of all locks on all nodes."""
    stub = names_pb2_grpc.NamesStub(node.api())
    return list(stub.List(names_pb2.ListNamesRequest(kind=KIND), timeout=_ANSWER).names)


def look(node: Node, timeout: float, text: str) -> tuple[list[Info], dict[str, str]]:
    """All locks, or those of one name, each with who holds it; and the nodes that do not say that, with the reason."""
    from ipcd_client.cli.session import Pins

    name, home = naming.parse(KIND, text) if text else ("", "")
    wanted = [one for one in names(node) if name in {"", one.name} and home in {"", one.node}]
    found: dict[tuple[str, str], Info] = {
        (one.name, one.node): Info(one.name, one.node, 0, [], [], 0, 0) for one in wanted
    }
    silent: dict[str, str] = {}
    for where in sorted({one.node for one in wanted}):
        stub = lock_pb2_grpc.LockStub(node.channel(Pins(node=where, server="")))
        request = lock_pb2.LockLookRequest(name=name)
        try:
            while True:
                reply = stub.Look(request, timeout=timeout)
                found.update({(info.name, where): Info.of(info) for info in reply.locks})
                if not reply.more:
                    break
                request.after = reply.locks[-1].name
        except grpc.RpcError as error:
            silent[where] = f"{error.code().name}: {error.details()}"
    return [found[key] for key in sorted(found)], silent
