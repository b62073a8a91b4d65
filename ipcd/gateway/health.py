"""grpc.health.v1 of the gateway: whether it serves, and whether anybody provides a service."""

# ruff: noqa: N802, ARG002 - the methods are named and called as gRPC does

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.grpc.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVICE: Final = "grpc.health.v1.Health"


class Unknown(IpcdError):
    """Nobody provides the service."""

    code = grpc.StatusCode.NOT_FOUND


class Health:
    """`provides`: whether somebody serves a service. `changed` tells that this may have changed."""

    def __init__(self, provides: Callable[[str], bool], changed: Waiters) -> None:
        self.stopping = False
        self._provides = provides
        self._changed = changed

    def status(self, service: str) -> HealthCheckResponse.ServingStatus:
        """Of a service's name, or of the gateway for an empty one."""
        if self.stopping:
            return HealthCheckResponse.NOT_SERVING
        if not service or self._provides(service):
            return HealthCheckResponse.SERVING
        return HealthCheckResponse.SERVICE_UNKNOWN

    async def Check(self, request: HealthCheckRequest, context: ServicerContext) -> HealthCheckResponse:
        """The state now."""
        status = self.status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise Unknown(f"nobody serves {request.service}")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: ServicerContext) -> AsyncIterator[HealthCheckResponse]:
        """The state now, and each other one from then on."""
        last: HealthCheckResponse.ServingStatus | None = None
        while True:
            status = self.status(request.service)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
                # While the watcher was slow there may have been changes.
                continue
            await self._changed.wait()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[HealthCheckRequest, HealthCheckResponse]]:
        """By the methods' names."""
        kinds = {"request_deserializer": HealthCheckRequest.FromString}
        to_bytes = HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.Check, response_serializer=to_bytes, **kinds),
            "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, response_serializer=to_bytes, **kinds),
        }
