"""Which named things there are."""

from __future__ import annotations

import grpc

from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc
from ipcd_client.primitives.errors import from_status


def names(api: grpc.Channel, kind: str, timeout: float) -> list[names_pb2.Name]:
    """Of a kind, on all nodes, by name and node. `api`: a channel to the daemon's own API. `timeout` in seconds.

    Raises:
        CallFailed: the daemon does not say.
    """
    try:
        reply = names_pb2_grpc.NamesStub(api).List(names_pb2.ListNamesRequest(kind=kind), timeout=timeout)
    except grpc.RpcError as error:
        failed: grpc.Call = error  # type: ignore[assignment]  # what a call raises is both
        raise from_status(failed.code(), failed.details() or "") from error
    return list(reply.names)
