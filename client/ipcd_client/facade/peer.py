"""Who the caller is, as the node vouched for it in the grant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ipcd_client.facade import introspection
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.base import Wire

IDENTITY_KEY: Final = "ipcd_identity"


def process_of(grant: node_pb2.Grant) -> tuple[str, int, int, int]:
    """Which process the caller is: node, uid, pid, pidfd. One that its node can see neither the number nor the pidfd of
    is all those of its user."""
    caller = grant.caller
    return (caller.node, caller.uid, caller.pid, caller.pidfd_id)


class Peer:
    """The caller at the other end of one connection."""

    def __init__(self, grant: node_pb2.Grant, wire: Wire) -> None:
        self.grant = grant
        self.identity = grant.identity
        self._wire = wire
        caller = grant.caller
        # grpcio's forms: ipv4:HOST:PORT, ipv6:[HOST]:PORT, unix:...
        if grant.address:
            self.name = f"{'ipv6' if grant.address.startswith('[') else 'ipv4'}:{grant.address}"
        else:
            self.name = f"unix:node={caller.node},pid={caller.pid},uid={caller.uid}"
        self.identity_key = IDENTITY_KEY
        self.process = process_of(grant)
        # The services that the caller may call, where the node's rules do not let it call all of them.
        self.only = frozenset([*grant.services, introspection.SERVICE]) if grant.services else None

    def refusal(self, method: str) -> str:
        """Why the rules do not let the caller call a method, "/pkg.Service/Method"; empty where they do."""
        service = method[1:].partition("/")[0]
        if self.only is None or service in self.only:
            return ""
        return (
            f"{self.identity} may not call {service} here: the server's node lets it call "
            f"{', '.join(self.grant.services)}"
        )

    def identities(self) -> Iterable[bytes]:
        """One: spiffe://CLUSTER/node/NODE/uid/UID."""
        return [self.identity.encode()]

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the node said of the process."""
        caller = self.grant.caller
        return {
            IDENTITY_KEY: self.identities(),
            # What the identity rests on: the caller's certificate, or what the kernel says and the node passes on.
            "transport_security_type": [b"tls" if self.grant.HasField("tls") else b"ipcd"],
            "transport": [self._wire.kind.encode()],
            "node": [caller.node.encode()],
            "pid": [str(caller.pid).encode()],
            "uid": [str(caller.uid).encode()],
            "gid": [str(caller.gid).encode()],
            **({"pidfd_id": [str(caller.pidfd_id).encode()]} if caller.pidfd_id else {}),
        }
