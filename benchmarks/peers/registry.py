"""The peers: which there are, where their code is, and what they can do. To measure another, add an entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of calling, measured beside the others."""

    name: str
    label: str  # what people read
    module: str  # below benchmarks.peers
    socket: str  # what is asked for: "shm", "unix", "tcp"
    note: str  # what has to be known to compare it
    beside: str = ""  # the peer of grpcio on the same kind of socket, which it is compared with
    protobuf: bool = True  # a gRPC method with protobuf messages; else a message of plain bytes
    ours: bool = False
    aio: bool = False  # called from an event loop
    ways: tuple[str, ...] = ()  # to keep many calls in flight
    streams: bool = True
    crew: bool = True  # many processes may call the server at once
    secured: bool = False  # with certificates, and TLS between its nodes
    channels: bool = False  # one process may open many connections, and a first call means something


_SYNC: Final = ("futures", "threads")
_TASKS: Final = ("tasks",)

PEERS: Final = (
    Peer(
        "ipcd-shm", "ipcd shm", "ipcd_sync", "shm", "caller and server on one node", "grpcio-unix",
        ours=True, ways=_SYNC, channels=True,
    ),
    Peer(
        "ipcd-unix", "ipcd unix", "ipcd_sync", "unix", "caller and server on one node", "grpcio-unix",
        ours=True, ways=_SYNC, channels=True,
    ),
    Peer(
        "ipcd-tcp", "ipcd tcp", "ipcd_sync", "tcp", "caller and server on two nodes", "grpcio-tcp",
        ours=True, ways=_SYNC, channels=True,
    ),
    Peer(
        "ipcd-tls", "ipcd tcp, TLS", "ipcd_sync", "tcp", "caller and server on two nodes with certificates",
        "grpcio-tcp", ours=True, ways=_SYNC, secured=True,
    ),
    Peer(
        "grpcio-unix", "grpcio unix", "grpcio_sync", "unix", "grpc.server, grpc.insecure_channel",
        ways=_SYNC, channels=True,
    ),
    Peer(
        "grpcio-tcp", "grpcio tcp", "grpcio_sync", "tcp", "grpc.server, grpc.insecure_channel",
        ways=_SYNC, channels=True,
    ),
    Peer(
        "ipcd-aio-shm", "ipcd aio shm", "ipcd_aio", "shm", "aio on both sides, one node", "grpcio-aio-unix",
        ours=True, aio=True, ways=_TASKS,
    ),
    Peer(
        "ipcd-aio-unix", "ipcd aio unix", "ipcd_aio", "unix", "aio on both sides, one node", "grpcio-aio-unix",
        ours=True, aio=True, ways=_TASKS,
    ),
    Peer(
        "ipcd-aio-tcp", "ipcd aio tcp", "ipcd_aio", "tcp", "aio on both sides, two nodes", "grpcio-aio-tcp",
        ours=True, aio=True, ways=_TASKS,
    ),
    Peer(
        "grpcio-aio-unix", "grpc.aio unix", "grpcio_aio", "unix", "grpc.aio on both sides",
        aio=True, ways=_TASKS,
    ),
    Peer(
        "grpcio-aio-tcp", "grpc.aio tcp", "grpcio_aio", "tcp", "grpc.aio on both sides",
        aio=True, ways=_TASKS,
    ),
    Peer(
        "pyzmq", "pyzmq ipc", "zmq_ipc", "unix", "REQ/REP; DEALER for many in flight; PAIR for streams", "grpcio-unix",
        protobuf=False, ways=("pipelined",),
    ),
    Peer(
        "pynng", "pynng ipc", "nng_ipc", "unix", "req/rep; contexts for many in flight; pair for streams",
        "grpcio-unix", protobuf=False, ways=("threads",),
    ),
    Peer(
        "pipe", "multiprocessing", "mp_pipe", "unix",
        "the Connection that Pipe() gives, over a UNIX stream socket; a thread of the server for each", "grpcio-unix",
        protobuf=False, ways=("pipelined",),
    ),
    Peer(
        "zenoh", "zenoh", "zenoh_unix", "unix",
        "querier and queryable, peer to peer over a UNIX socket; publisher and subscriber for streams", "grpcio-unix",
        protobuf=False, ways=("pipelined",),
    ),
    Peer(
        "iceoryx2", "iceoryx2", "iox2", "shm",
        "request/response and publish/subscribe; both sides poll without pause while they are called, which takes a"
        " whole CPU each", "grpcio-unix", protobuf=False, ways=("pipelined",), crew=False,
    ),
)  # fmt: skip

BY_NAME: Final = {peer.name: peer for peer in PEERS}
