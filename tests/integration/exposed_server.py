"""A gRPC server that knows nothing of ipcd: the one of gRPC's interoperability tests, on grpcio.

python exposed_server.py [--health watch|check] [--reflection] [--tls CERTIFICATE KEY] ADDRESS

Its first line is the port, 0 for a UNIX socket. Beside what the tests want of it, it tells with each answer of Nothing
how long the caller would wait (x-left, seconds) and how many replies of Download it has made (x-made). A line
"SERVICE STATUS" on its input is what the health service says from then on; SERVICE * is the whole server.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from conformance import interop
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Servicer(interop.Servicer):
    """Tells what it sees."""

    def __init__(self) -> None:
        self._made = 0

    def Nothing(self, request: interop_pb2.Empty, context: grpc.ServicerContext) -> interop_pb2.Empty:
        answer = super().Nothing(request, context)
        facts = (("x-left", str(context.time_remaining())), ("x-made", str(self._made)))
        context.set_trailing_metadata((*(context.trailing_metadata() or ()), *facts))
        return answer

    def Unary(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> interop_pb2.Reply:
        if request.status.code:
            context.set_trailing_metadata((("x-why", "asked"), ("grpc-status-details-bin", b"\0\xff")))
        return super().Unary(request, context)

    def Download(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> Iterator[interop_pb2.Reply]:
        for reply in super().Download(request, context):
            self._made += 1
            yield reply


class CheckOnly(health.HealthServicer):  # type: ignore[misc]  # has no types
    """As servers were before there was Watch."""

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no Watch")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--health", choices=["watch", "check"])
    parser.add_argument("--reflection", action="store_true")
    parser.add_argument("--tls", nargs=2, type=Path)
    parser.add_argument("address")
    options = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(32))
    interop_pb2_grpc.add_TestServicer_to_server(Servicer(), server)
    statuses = health.HealthServicer() if options.health == "watch" else CheckOnly()
    if options.health:
        health_pb2_grpc.add_HealthServicer_to_server(statuses, server)
    if options.reflection:
        names = ("interop.v1.Test", reflection.SERVICE_NAME, health.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    if options.tls:
        certificate, key = (path.read_bytes() for path in options.tls)
        port = server.add_secure_port(options.address, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port(options.address)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server.start()
    print(0 if options.address.startswith("unix:") else port, flush=True)
    for line in sys.stdin:
        service, status = line.rsplit(maxsplit=1)
        statuses.set("" if service == "*" else service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    server.stop(None)


if __name__ == "__main__":
    main()
