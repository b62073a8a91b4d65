"""Packages of gRPC's own whose aio servicers are used unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from conformance.aio.echo import SERVICE
from conformance.aio.test_servicer import Code, ending
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

State = health_pb2.HealthCheckResponse


def test_health(make: Callable[..., Any]) -> None:
    async def main() -> None:
        server, connect = make()
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await server.start()
        async with connect() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            about = health_pb2.HealthCheckRequest(service=SERVICE)
            assert (await ending(stub.Check(about)))[1] is Code.NOT_FOUND
            watching = stub.Watch(about)
            assert (await watching.read()).status == State.SERVICE_UNKNOWN
            await servicer.set(SERVICE, State.SERVING)
            assert (await watching.read()).status == State.SERVING
            assert (await stub.Check(about)).status == State.SERVING
            watching.cancel()
        await server.stop(None)

    asyncio.run(main(), debug=True)


def test_reflection(make: Callable[..., Any]) -> None:
    async def main() -> None:
        server, connect = make()
        names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        await server.start()
        async with connect() as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            listed = (await call.read()).list_services_response.service
            assert {service.name for service in listed} == set(names)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        await server.stop(None)

    asyncio.run(main(), debug=True)
