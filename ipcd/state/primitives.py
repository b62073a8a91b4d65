"""The kinds of named things that a node keeps, and the services with which its daemon serves them. Pure.

Every daemon serves them: they are registered nowhere, and no catalog lists them.
"""

from __future__ import annotations

from typing import Final

from ipcd_client.pb.ipcd.v1 import node_pb2

# By the kind of what they keep.
SERVICE_OF: Final = {
    kind: f"ipcd.v1.{kind.capitalize()}" for kind in ("lock", "pipe", "queue", "semaphore", "signal", "topic", "value")
}
SERVICES: Final = frozenset(SERVICE_OF.values())
KIND_OF: Final = {service: kind for kind, service in SERVICE_OF.items()}
# Of what rules call the ends of processes: exit:PID, exit:SERVICE, exit:SERVER.
EXIT: Final = "exit"
# What rules call that which a call is about, where it is not of its service's kind.
RULED_AS: Final = {"/ipcd.v1.Signal/WatchExit": EXIT}
# Metadata with which a gateway says for whom it calls.
FOR: Final = "ipcd-for"
# And what its node's rules do not let that do with the thing that the call is about.
WITHHELD: Final = "ipcd-withheld"
# The name of that thing, in UTF-8, where its node's rules may say otherwise of others: of those nothing was asked.
ABOUT: Final = "ipcd-about-bin"
# The daemon's name, as a server.
NAME: Final = "ipcd"


def described(process: node_pb2.Process) -> node_pb2.Server:
    """A daemon, as a server among others. `process`: at least its node."""
    return node_pb2.Server(id=f"{process.node}.{NAME}", name=NAME, process=process, services=sorted(SERVICES), weight=1)
