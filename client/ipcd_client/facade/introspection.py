"""What every server tells of itself, beside the user's services: the descriptors of what it serves."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import grpc
from google.protobuf import descriptor_pool

from ipcd_client.facade.shapes import Handler
from ipcd_client.pb.ipcd.v1 import wire_pb2, wire_pb2_grpc

SERVICE = "ipcd.v1.Introspection"
DESCRIBE = f"/{SERVICE}/Describe"


class Introspection(wire_pb2_grpc.IntrospectionServicer):
    """Answers from the process's default descriptor pool, where generated code puts its descriptors."""

    def __init__(self, services: AbstractSet[str]) -> None:
        self._services = services

    def Describe(  # noqa: N802
        self, request: wire_pb2.DescribeRequest, context: grpc.ServicerContext
    ) -> wire_pb2.DescribeReply:
        if request.service not in self._services:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.service!r} is not served here")
        try:
            descriptor = descriptor_pool.Default().FindServiceByName(request.service)
        except KeyError:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"the server has no descriptor of {request.service}: it was registered without generated code",
            )
        reply = wire_pb2.DescribeReply()
        seen: set[str] = set()

        def add(file: Any) -> None:
            if file.name in seen:
                return
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            reply.files.append(file.serialized_pb)

        add(descriptor.file)
        return reply


def handlers(services: AbstractSet[str]) -> dict[str, Handler]:
    """Full method name to handler. `services` may grow."""
    collected: dict[str, Handler] = {}

    class Collector:
        def add_generic_rpc_handlers(self, _: object) -> None:
            pass

        def add_registered_method_handlers(self, service: str, methods: dict[str, Handler]) -> None:
            collected.update({f"/{service}/{name}": handler for name, handler in methods.items()})

    wire_pb2_grpc.add_IntrospectionServicer_to_server(Introspection(services), Collector())
    return collected
