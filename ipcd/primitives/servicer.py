"""`ipcd.v1.Names`, of a node's own API."""

# ruff: noqa: N802, ARG002 - the methods are named and called as in the .proto

from __future__ import annotations

from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc

from ipcd.primitives.directory import Directory


class NamesServicer(names_pb2_grpc.NamesServicer):
    """Answers from what this node knows."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def Find(self, request: names_pb2.FindRequest, context: ServicerContext) -> names_pb2.FindReply:
        """Which node keeps a thing."""
        return names_pb2.FindReply(node=self._directory.find(request.kind, request.name), here=self._directory.node)

    async def List(self, request: names_pb2.ListNamesRequest, context: ServicerContext) -> names_pb2.ListNamesReply:
        """What there is."""
        return names_pb2.ListNamesReply(names=self._directory.all(request.kind))
