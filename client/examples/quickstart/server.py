"""A gRPC server that callers find through ipcd: the servicer and the generated code know nothing of it.

ipcd run &
python server.py &
python client.py Ada Grace
"""

# ruff: noqa: N802 - the methods are named as in the .proto

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import ipcd_client
from generated.hello.v1 import hello_pb2, hello_pb2_grpc


class Greeter(hello_pb2_grpc.GreeterServicer):
    def Greet(self, request: hello_pb2.GreetRequest, context: grpc.ServicerContext) -> hello_pb2.GreetReply:
        if not request.name:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nobody to greet")
        return hello_pb2.GreetReply(text=f"Hello, {request.name}!", pid=os.getpid())

    def GreetAll(
        self, request_iterator: Iterator[hello_pb2.GreetRequest], context: grpc.ServicerContext
    ) -> Iterator[hello_pb2.GreetReply]:
        for request in request_iterator:
            yield self.Greet(request, context)


def main() -> None:
    # With grpcio: grpc.server(ThreadPoolExecutor()), and an add_insecure_port below. No port is needed here.
    server = ipcd_client.server()
    hello_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    server.start()
    try:
        print("serving hello.v1.Greeter; Ctrl-C ends it", flush=True)
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
