"""Libraries that are made for grpcio, as their users use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import LONG, unary
from google.protobuf import any_pb2, descriptor_pool, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as descriptor_database
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry.instrumentation.grpc import client_interceptor, server_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

HealthStatus = health_pb2.HealthCheckResponse

# -- grpcio-health-checking -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("non_blocking", [True, False])
def test_health(start: Callable[..., Side], non_blocking: bool) -> None:
    """Each watcher of the blocking sort has a thread to itself."""
    servicer = health.HealthServicer(experimental_non_blocking=non_blocking)
    side = start(
        threads=1 if non_blocking else 4,
        register=lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server),
    )
    stub = health_pb2_grpc.HealthStub(side.channel)

    def check(service: str) -> Any:
        outcome = unary(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return outcome[0].status if len(outcome) == 1 else outcome[0]

    assert check("") == HealthStatus.SERVING
    assert check("x") is grpc.StatusCode.NOT_FOUND
    watches = [stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=LONG) for _ in range(2)]
    assert [next(watch).status for watch in watches] == [HealthStatus.SERVICE_UNKNOWN] * 2
    servicer.set("x", HealthStatus.SERVING)
    assert [next(watch).status for watch in watches] == [HealthStatus.SERVING] * 2
    assert check("x") == HealthStatus.SERVING
    servicer.enter_graceful_shutdown()
    assert [next(watch).status for watch in watches] == [HealthStatus.NOT_SERVING] * 2
    assert check("") == HealthStatus.NOT_SERVING
    watches[0].cancel()
    side.server.stop(None)
    assert watches[1].code() is grpc.StatusCode.UNAVAILABLE


# -- grpcio-reflection ------------------------------------------------------------------------------------------------


def test_reflection(start: Callable[..., Side]) -> None:
    names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
    side = start(register=lambda server: reflection.enable_server_reflection(names, server))
    database = descriptor_database.ProtoReflectionDescriptorDatabase(side.channel)
    assert sorted(database.get_services()) == sorted(names)
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName(health.SERVICE_NAME)
    assert [method.name for method in service.methods][:1] == ["Check"]
    with pytest.raises(KeyError):
        pool.FindServiceByName("no.such.Service")


# -- grpcio-status ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_rich_status(side: Side, kind: str) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3)))
    rich = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="later ☺", details=[detail])

    def behavior(request: bytes, context: grpc.ServicerContext) -> Any:
        context.abort_with_status(rpc_status.to_status(rich))

    call = side.serve(kind, behavior)
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=LONG) if kind == "unary_unary" else next(call(b"", timeout=LONG))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(raised.value) == rich


def test_no_rich_status(side: Side) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        side.unary("UnaryAbort")(b"plain", timeout=LONG)
    assert rpc_status.from_call(raised.value) is None


# -- OpenTelemetry ----------------------------------------------------------------------------------------------------


class Spans(SpanExporter):
    """What has been recorded. The caller's end of a stream may be so a little later than its last answer."""

    def __init__(self) -> None:
        self.by_kind: dict[SpanKind, ReadableSpan] = {}
        self.recorded = threading.Semaphore(0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.by_kind.update({span.kind: span for span in spans})
        self.recorded.release(len(spans))
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
@pytest.mark.parametrize("fails", [False, True])
def test_traces(start: Callable[..., Side], kind: str, fails: bool) -> None:
    """A span at each end, the server's below the caller's, both with the call's code."""
    provider, spans = TracerProvider(shutdown_on_exit=False), Spans()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    side = start(interceptors=[server_interceptor(tracer_provider=provider)])
    side.channel = intercept_channel(side.channel, client_interceptor(tracer_provider=provider))

    def one(request: Any, context: grpc.ServicerContext) -> bytes:
        if fails:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return b"answer"

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield one(request, context)

    call = side.serve(kind, many if kind.endswith("stream") else one)
    request: Any = iter((b"",)) if kind.startswith("stream") else b""
    if kind.endswith("unary"):
        seen = unary(call, request)
        assert seen == ((grpc.StatusCode.NOT_FOUND, "gone") if fails else (b"answer",))
    else:
        got: list[bytes] = []
        try:
            got.extend(call(request, timeout=LONG))
        except grpc.RpcError as error:
            got.append(str(error.code()).encode())
        assert got == ([b"StatusCode.NOT_FOUND"] if fails else [b"answer"])
    for _ in range(2):
        assert spans.recorded.acquire(timeout=LONG)
    client, server = spans.by_kind[SpanKind.CLIENT], spans.by_kind[SpanKind.SERVER]
    assert client.context is not None
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert server.parent.trace_id == client.context.trace_id
    number = grpc.StatusCode.NOT_FOUND.value[0] if fails else 0
    for span in (client, server):
        assert span.name == f"/{side.service}/Served"
        assert span.attributes is not None
        assert span.attributes["rpc.grpc.status_code"] == number
