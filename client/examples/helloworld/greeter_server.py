"""The server of gRPC's hello world: on ipcd greeter_server.py, on grpcio greeter_server_grpcio.py."""

# ruff: noqa: N802 - the methods are named as in the .proto

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import ipcd_client
from helloworld_pb.helloworld.v1 import helloworld_pb2, helloworld_pb2_grpc

ADDRESS = os.environ.get("GREETER_ADDRESS", "localhost:50051")


class Greeter(helloworld_pb2_grpc.GreeterServicer):
    def SayHello(
        self, request: helloworld_pb2.HelloRequest, context: grpc.ServicerContext
    ) -> helloworld_pb2.HelloReply:
        return helloworld_pb2.HelloReply(message=f"Hello, {request.name}!")

    def SayHelloStreamReply(
        self, request: helloworld_pb2.HelloRequest, context: grpc.ServicerContext
    ) -> Iterator[helloworld_pb2.HelloReply]:
        for greeting in ("Hello", "Good morning", "Good bye"):
            yield helloworld_pb2.HelloReply(message=f"{greeting}, {request.name}!")


def main() -> None:
    server = ipcd_client.server(ThreadPoolExecutor(max_workers=10))
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    port = server.add_insecure_port(ADDRESS)
    server.start()
    try:
        print(f"serving helloworld.v1.Greeter; gRPC's port is {port}", flush=True)
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
