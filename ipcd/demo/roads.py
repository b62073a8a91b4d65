"""The ways from a caller to the service that are measured: data, and how a channel is opened along one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import grpc

from ipcd.demo.service import SERVICE

# Which of grpcio's sockets a transport is compared with: the kind that would be used in its place.
BESIDE = {"shm": "grpcio unix", "unix": "grpcio unix", "tcp": "grpcio tcp"}

OPEN = 5.0  # seconds for a server to be found and introduced


@dataclass(frozen=True, slots=True)
class Asked:
    """A road through ipcd that is wanted, before there are nodes."""

    caller: str  # the node that the caller is attached to, "a" or "b"; the server is on a
    transport: str  # as ipcd_client.channel takes it
    optional: bool = False  # left out, with the reason said, where it can't be opened


@dataclass(frozen=True, slots=True)
class Road:
    """One way from a caller to the service."""

    label: str  # what people read while it is measured
    target: str
    grpcio: str = ""  # "unix" or "tcp": through grpcio over that socket; empty: through ipcd
    caller: str = ""  # the node that the caller is attached to, and the path of that node's socket
    node: str = ""
    transport: str = "auto"
    optional: bool = False

    def arguments(self) -> tuple[str, ...]:
        """What the client process for this road is started with, after the interpreter."""
        return ("-m", "ipcd.demo.worker", json.dumps(asdict(self)))


@dataclass(frozen=True, slots=True)
class Taken:
    """What a channel took, in its own words."""

    transport: str  # "unix", "tcp", "shm"; "grpcio unix", "grpcio tcp"
    why: str


@contextmanager
def along(road: Road) -> Iterator[tuple[grpc.Channel, Taken]]:
    """A channel along the road, and what it took, asked of the channel itself.

    Raises ipcd_client.errors.IpcdError where the road can't be opened.
    """
    if road.grpcio:
        socket = "a UNIX socket" if road.grpcio == "unix" else "loopback TCP"
        with grpc.insecure_channel(road.target) as channel:
            yield channel, Taken(f"grpcio {road.grpcio}", f"grpcio over {socket}, for comparison")
        return
    import ipcd_client  # here, so that the processes of the comparison load nothing of it

    with ipcd_client.channel(road.target, node=road.node, transport=road.transport) as channel:
        # A server of another node is known here only once that node has told of it; but what may be missing is
        # not waited for.
        route = channel.route(SERVICE, OPEN, wait_for_ready=not road.optional)
        yield channel, Taken(route.transport, route.reason)
