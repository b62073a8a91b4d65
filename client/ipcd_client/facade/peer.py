"""Who the caller is, as the node vouched for it in the grant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.base import Wire

IDENTITY_KEY: Final = "ipcd_identity"


class Peer:
    """The caller at the other end of one connection."""

    def __init__(self, grant: node_pb2.Grant, wire: Wire) -> None:
        self.grant = grant
        self._wire = wire
        caller = grant.caller
        # grpcio's forms: ipv4:HOST:PORT, ipv6:[HOST]:PORT, unix:...
        if grant.address:
            self.name = f"{'ipv6' if grant.address.startswith('[') else 'ipv4'}:{grant.address}"
        else:
            self.name = f"unix:node={caller.node},pid={caller.pid},uid={caller.uid}"
        self.identity_key = IDENTITY_KEY

    def identities(self) -> Iterable[bytes]:
        """One: NODE/uid/UID."""
        caller = self.grant.caller
        return [f"{caller.node}/uid/{caller.uid}".encode()]

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the node said of the process."""
        caller = self.grant.caller
        return {
            IDENTITY_KEY: self.identities(),
            "transport_security_type": [b"ipcd"],
            "transport": [self._wire.kind.encode()],
            "node": [caller.node.encode()],
            "pid": [str(caller.pid).encode()],
            "uid": [str(caller.uid).encode()],
            "gid": [str(caller.gid).encode()],
        }
