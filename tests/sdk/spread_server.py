"""A program that says who answers: python spread_server.py NAME SOCKET [OPTION=NUMBER]...

It ends well on SIGTERM. SIGUSR1 makes its health NOT_SERVING, SIGUSR2 SERVING again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import ipcd_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "spread.v1.Spread"


class Spread(grpc.GenericRpcHandler):
    """`Who` answers with the server's name; `Stay` does too, and stays until it is cancelled."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()

    def service_name(self) -> str:
        return SERVICE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == f"/{SERVICE}/Who":
            return grpc.unary_unary_rpc_method_handler(self.who)
        if details.method == f"/{SERVICE}/Stay":
            return grpc.unary_stream_rpc_method_handler(self.stay)
        return None

    def who(self, _request: bytes, _context: Any) -> bytes:
        return self.name

    def stay(self, _request: bytes, context: Any) -> Iterator[bytes]:
        over = threading.Event()
        if context.add_callback(over.set):
            yield self.name
            over.wait()


def main() -> None:
    name, path, *options = sys.argv[1:]
    given = [(key, int(value)) for key, _, value in (option.partition("=") for option in options)]
    server = ipcd_client.server(handlers=(Spread(name),), name=name, node=path, options=given)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    state = health_pb2.HealthCheckResponse

    def tell(number: int, _frame: object) -> None:
        checks.set(SERVICE, state.NOT_SERVING if number == signal.SIGUSR1 else state.SERVING)

    signal.signal(signal.SIGUSR1, tell)
    signal.signal(signal.SIGUSR2, tell)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
