"""The nodes of a run: on loopback, and told of each other, so that nothing is announced."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ipcd_client.certs.authority import Authority

from ipcd.demo.nodes import Node, begin, knows, up
from ipcd.demo.processes import Children, StageError

LINKED = 10.0  # seconds for a node to reach the one it was told of


def cluster() -> str:
    """Of this run: other benchmarks may run on the same machine."""
    return f"bench-{os.getpid()}"


def start(
    children: Children,
    directory: Path,
    name: str,
    *peers: Node,
    authority: Authority | None = None,
    more: Sequence[str] = (),
) -> Node:
    """A node that answers and is linked with `peers`; raises StageError where it does not come to that. `authority`:
    makes its certificate; None for no certificate. `more`: options."""
    told = [*more, *(word for peer in peers for word in ("--peer", peer.listen))]
    if authority is not None:
        file = directory / f"{name}.pem"
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
        file.write_bytes(authority.issue(name).content)
        told += ["--identity", str(file)]
    process = begin(children, name, directory, cluster(), "--no-discovery", *told)
    node = up(name, directory, process)
    until = time.monotonic() + LINKED
    for peer in peers:
        if not knows(node, peer, until):
            raise StageError(f"node {name} has not reached node {peer.name} in {LINKED:.0f} s")
    return node
