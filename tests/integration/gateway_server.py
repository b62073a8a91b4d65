"""A process that serves interop.v1.Test and conformance.v1.Echo at a node, until it is ended.

python gateway_server.py NODE_SOCKET NAME

Its first line is "ready", once it is registered. Then it prints of each Upload that it has "begun", and that it is
"broken" or "whole", and "ended" when nobody waits for it any more. A line on its input lets go whoever waits.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import ipcd_client
from conformance import interop
from conformance.echo import Echo
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc


class Servicer(interop.Servicer):
    """Tells with each answer of Nothing who it is (x-served-by), how long the caller would wait (x-left, seconds) and
    how many replies of Download it has made (x-made)."""

    def __init__(self) -> None:
        self._made = 0

    def Nothing(self, request: interop_pb2.Empty, context: grpc.ServicerContext) -> interop_pb2.Empty:
        facts = {"x-served-by": sys.argv[2], "x-left": str(context.time_remaining()), "x-made": str(self._made)}
        answer = super().Nothing(request, context)
        context.set_trailing_metadata((*(context.trailing_metadata() or ()), *facts.items()))
        return answer

    def Unary(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> interop_pb2.Reply:
        if request.status.code:
            context.set_trailing_metadata((("x-why", "asked"), ("grpc-status-details-bin", b"\0\xff")))
        return super().Unary(request, context)

    def Download(self, request: interop_pb2.Request, context: grpc.ServicerContext) -> Iterator[interop_pb2.Reply]:
        for reply in super().Download(request, context):
            self._made += 1
            yield reply

    def Upload(self, requests: Iterator[interop_pb2.Request], context: grpc.ServicerContext) -> interop_pb2.Sum:
        context.add_callback(lambda: print("ended", flush=True))
        print("begun", flush=True)
        try:
            answer = super().Upload(requests, context)
        except Exception:
            print("broken", flush=True)
            raise
        print("whole", flush=True)
        return answer


def let_go(echo: Echo) -> None:
    for _ in sys.stdin:
        echo.release.set()


def main() -> None:
    echo = Echo()
    server = ipcd_client.server(futures.ThreadPoolExecutor(32), handlers=(echo,), name=sys.argv[2], node=sys.argv[1])
    interop_pb2_grpc.add_TestServicer_to_server(Servicer(), server)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(10))
    server.start()
    threading.Thread(target=let_go, args=(echo,), daemon=True).start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
