"""The nodes of a run: on loopback, and told of each other, so that nothing is announced."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ipcd.demo.nodes import Node, begin, knows, up
from ipcd.demo.processes import Children, StageError

LINKED = 10.0  # seconds for a node to reach the one it was told of


def start(children: Children, directory: Path, name: str, *peers: Node) -> Node:
    """A node that answers and is linked with `peers`; raises StageError where it does not come to that."""
    told = (word for peer in peers for word in ("--peer", peer.listen))
    process = begin(children, name, directory, f"bench-{os.getpid()}", "--no-discovery", *told)
    node = up(name, directory, process)
    until = time.monotonic() + LINKED
    for peer in peers:
        if not knows(node, peer, until):
            raise StageError(f"node {name} has not reached node {peer.name} in {LINKED:.0f} s")
    return node
