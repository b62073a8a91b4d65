"""The client of gRPC's hello world: on ipcd greeter_client.py, on grpcio greeter_client_grpcio.py."""

from __future__ import annotations

import os
import sys

import grpc
from helloworld_pb.helloworld.v1 import helloworld_pb2, helloworld_pb2_grpc

ADDRESS = os.environ.get("GREETER_ADDRESS", "localhost:50051")


def main(name: str) -> int:
    with grpc.insecure_channel(ADDRESS) as channel:
        stub = helloworld_pb2_grpc.GreeterStub(channel)
        request = helloworld_pb2.HelloRequest(name=name)
        try:
            print(stub.SayHello(request, timeout=10).message)
            for reply in stub.SayHelloStreamReply(request, timeout=10):
                print(reply.message)
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["world"]))
