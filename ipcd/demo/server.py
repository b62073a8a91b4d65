"""The demo's server process: `lab.v1.Lab` through ipcd or through grpcio, until its standard input ends.

    python -m ipcd.demo.server ipcd NODE_SOCKET
    python -m ipcd.demo.server grpcio UNIX_SOCKET    (and on a free port of loopback TCP)

Once it serves, it says so in one line of JSON: `{"pid": N, "tcp": "HOST:PORT"}`.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

from ipcd.demo.pb.lab.v1 import lab_pb2_grpc
from ipcd.demo.service import LabServicer

WORKERS = 8  # threads; the same for both, more than the demo has callers


def main() -> None:
    kind, path = sys.argv[1:]
    executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="lab")
    tcp = ""
    if kind == "ipcd":
        import ipcd_client  # here, so that the processes of the comparison load nothing of it

        server: grpc.Server = ipcd_client.server(executor, name="lab", node=path)
    else:
        server = grpc.server(executor)
        server.add_insecure_port(f"unix:{path}")
        tcp = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    lab_pb2_grpc.add_LabServicer_to_server(LabServicer(name=kind), server)
    server.start()
    sys.stdout.write(json.dumps({"pid": os.getpid(), "tcp": tcp}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(1.0).wait(2.0)


if __name__ == "__main__":
    main()
