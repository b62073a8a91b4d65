"""A node that says of all its processes that they are its daemon: before `python -m ipcd run ...` on a command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd.parties import Attached
from ipcd.registry import Registry

# What a test starts such a node with.
LAUNCHER = (sys.executable, str(Path(__file__)))

_attach = Registry.attach


def attach(self: Registry, process: node_pb2.Process) -> Attached:
    process.daemon = True
    return _attach(self, process)


if __name__ == "__main__":
    Registry.attach = attach  # type: ignore[method-assign]
    sys.argv = sys.argv[3:]
    runpy.run_module("ipcd", run_name="__main__", alter_sys=False)
