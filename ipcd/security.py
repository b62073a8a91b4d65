"""The node's certificate at work: what processes and links need to prove who they are."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ipcd_client.certs.identity import Credentials, Identity
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire import tls
from ipcd_client.wire.base import Wire

# Users whose certificates are kept at hand.
_USERS: Final = 256
# A new one is made when a certificate has this share of its life left.
_RENEW: Final = 0.5


class Security:
    """`clock`: seconds since the epoch. Certificates are made when they are first needed, and again at half of their
    life: connections that are up stay, new ones take the new one."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self.identity = identity
        self._clock = clock
        # Of a uid, None for the node itself: with when it was made, and when it is to be replaced.
        self._made: OrderedDict[int | None, tuple[Credentials, float, float]] = OrderedDict()

    def replace(self, identity: Identity) -> None:
        """New connections are made with this certificate from now on."""
        self.identity = identity
        self._made.clear()

    def for_process(self, uid: int | None, peer: str) -> node_pb2.Tls:
        """What a process of that user of this node, or the daemon as itself (None), needs to talk to `peer`, an
        identity."""
        own = self._credentials(uid)
        return node_pb2.Tls(chain=own.chain, key=own.key, authorities=own.authorities, peer=peer)

    def wire(self, sock: socket.socket, peer: str, *, server_side: bool) -> tls.TlsWire:
        """For a link with another node, which may be any of the cluster. `peer`: that node in words."""
        own = self._credentials(None)
        context = tls.context(own.chain, own.key, own.authorities, server_side=server_side)
        return tls.TlsWire(sock, peer=peer, context=context, server_side=server_side)

    @staticmethod
    def shown(wire: Wire) -> str:
        """The identity that the other end of a link has shown."""
        return wire.identity if isinstance(wire, tls.TlsWire) else ""

    def _credentials(self, uid: int | None) -> Credentials:
        now = self._clock()
        made = self._made.get(uid)
        # Where the clock was put back, what was made is not valid yet.
        if made is not None and made[1] <= now < made[2]:
            self._made.move_to_end(uid)
            return made[0]
        credentials = self.identity.issue(uid, now)
        self._made[uid] = credentials, now, now + (credentials.expires - now) * _RENEW
        while len(self._made) > _USERS:
            self._made.popitem(last=False)
        return credentials
