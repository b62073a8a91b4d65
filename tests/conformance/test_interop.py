"""The cases of gRPC's own interoperability tests."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from conformance import interop
from conformance.conftest import Side
from conformance.pb.interop.v1 import interop_pb2_grpc


@pytest.fixture
def channel(start: Callable[..., Side]) -> grpc.Channel:
    """To a server for the tests."""

    def register(server: grpc.Server) -> None:
        interop_pb2_grpc.add_TestServicer_to_server(interop.Servicer(), server)

    return start(threads=16, register=register).channel


@pytest.mark.parametrize("case", interop.CASES.values(), ids=interop.CASES)
def test_case(case: Callable[[grpc.Channel], None], channel: grpc.Channel) -> None:
    case(channel)


def test_unimplemented_service(channel: grpc.Channel, request: pytest.FixtureRequest) -> None:
    routed = request.node.callspec.params["start"] != "grpcio"
    interop.unimplemented_service(channel, grpc.StatusCode.UNAVAILABLE if routed else grpc.StatusCode.UNIMPLEMENTED)
