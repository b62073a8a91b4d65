"""Calls the server of server.py through ipcd: with a stub, as ever."""

from __future__ import annotations

import sys

import grpc
import ipcd_client
from generated.hello.v1 import hello_pb2, hello_pb2_grpc


def main(names: list[str]) -> int:
    # With grpcio: grpc.insecure_channel("HOST:PORT"). Here the service's name is enough, whatever host serves it.
    with ipcd_client.channel() as channel:
        stub = hello_pb2_grpc.GreeterStub(channel)
        try:
            reply = stub.Greet(hello_pb2.GreetRequest(name=names[0]), timeout=5)
            print(f"{reply.text} (from process {reply.pid})")
            for reply in stub.GreetAll(iter([hello_pb2.GreetRequest(name=name) for name in names]), timeout=5):
                print(reply.text)
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["world"]))
