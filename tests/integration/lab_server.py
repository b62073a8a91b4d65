"""A process that serves lab.v1.Lab and shows what it got of metadata, until it is ended.

python lab_server.py NODE_SOCKET NAME
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import ipcd_client

from ipcd.demo.pb.lab.v1 import lab_pb2_grpc
from ipcd.demo.service import LabServicer


class Lab(LabServicer):
    """The demo's, with metadata."""

    def Identity(self, request: Any, context: Any) -> Any:
        """Sends back the metadata that begin with "x-"."""
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata((("served-by", sys.argv[2]),))
        context.set_trailing_metadata(tuple(sent))
        return super().Identity(request, context)

    def Digest(self, request: Any, context: Any) -> Any:
        """Says in the trailing metadata that it was here."""
        context.set_trailing_metadata((("seen-by", sys.argv[2]), ("raw-bin", b"\0\xff")))
        return super().Digest(request, context)


def main() -> None:
    server = ipcd_client.server(name=sys.argv[2], node=sys.argv[1])
    lab_pb2_grpc.add_LabServicer_to_server(Lab(name=sys.argv[2]), server)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1.0))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
