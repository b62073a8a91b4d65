"""The roads from a program to a thing that a node keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from integration.daemons import Daemon
from integration.gateway import address_of

# On the program's own node; on another, by the SDK; on another, by plain gRPC and the own node's gateway.
ROADS = ("here", "there", "gateway")


class Cluster(NamedTuple):
    """Two nodes with a link."""

    front: Daemon
    back: Daemon


class Road:
    """One of them, for one test. `keywords` is what handles are made with beside a name, `loop_keywords()` the same for
    handles of the running event loop."""

    def __init__(self, kind: str, cluster: Cluster, prefix: str) -> None:
        self.kind = kind
        self.front = cluster.front
        self.home = cluster.front if kind == "here" else cluster.back
        self._prefix = prefix
        self._channel: grpc.Channel | None = None
        if kind == "gateway":
            self._channel = grpc.insecure_channel(address_of(self.front))
            self.keywords: dict[str, Any] = {"channel": self._channel}
        else:
            self.keywords = {"node": self.front.socket}

    def loop_keywords(self) -> dict[str, Any]:
        """For handles of the running loop. A channel among them is to be closed there."""
        if self.kind == "gateway":
            return {"channel": grpc.aio.insecure_channel(address_of(self.front))}
        return {"node": self.front.socket}

    def name(self, name: str) -> str:
        """One that no other test has, of a thing at the road's end."""
        return f"{self._prefix}.{name}@{self.home.node}"

    def close(self) -> None:
        """Ends what was made for the test."""
        if self._channel is not None:
            self._channel.close()
