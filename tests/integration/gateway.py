"""A node with a gateway, servers behind it, and gRPC's own clients before it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.exposing import line_of

TESTS = Path(__file__).parents[1]
SERVER = str(Path(__file__).with_name("gateway_server.py"))
LISTEN = ("--grpc-listen", "127.0.0.1:0")


def address_of(daemon: Daemon) -> str:
    """The HOST:PORT of its gateway."""
    return str(daemon.events("started")[0]["grpc"]).rpartition(",")[2]


def serving(daemon: Daemon, name: str = "first") -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """gateway_server.py at a daemon."""
    return serving_at(daemon.socket, name)


@contextlib.contextmanager
def serving_at(node_socket: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """gateway_server.py at a node, registered. Killed at the end, if it has not ended."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, SERVER, node_socket, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            assert line_of(process) == "ready"
            yield process
        finally:
            process.kill()


def front_and_back(cluster: Daemons, nodes: int) -> tuple[Daemon, Daemon]:
    """The node that has a gateway, and the one that servers are to be at: itself, or another that it is linked with."""
    if nodes == 1:
        front = cluster.run("a", *LISTEN)
        return front, front
    back = cluster.run("b")
    front = cluster.run("a", *LISTEN, "--peer", back.listen)
    front.logged("node linked", "b")
    return front, back


@contextlib.contextmanager
def channel_to(daemon: Daemon) -> Iterator[grpc.Channel]:
    """grpcio's, connected, with none of its other channels' connections."""
    with grpc.insecure_channel(address_of(daemon), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(LONG)
        yield channel


def until_served(channel: grpc.Channel, method: str = "/interop.v1.Test/Nothing") -> None:
    """Calls until somebody answers, and takes no other error than that nobody does."""

    call: Any = channel.unary_unary(method)

    def answered() -> bool:
        try:
            call(b"", timeout=LONG)
        except grpc.RpcError as error:
            if "no server for" not in str(error.details()):
                raise
            return False
        return True

    eventually(answered, f"{method} is answered")


def fact(call: Any, key: str) -> Any:
    """From the trailing metadata."""
    return dict(call.trailing_metadata())[key]
