"""The wire on a TCP connection that the nodes have arranged: with TLS where they say so."""

from __future__ import annotations

import socket

from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.tcp import TcpWire


def wire_on(
    sock: socket.socket, peer: str, introduced: node_pb2.OpenReply | node_pb2.Grant, *, server_side: bool
) -> TcpWire:
    """The wire that owns the socket from then on. `peer`: the other end in words. `introduced`: what the node said.

    Raises:
        ConfigError: the node's certificates cannot be used. The socket is closed.
    """
    if not introduced.HasField("tls"):
        return TcpWire(sock, peer=peer)
    from ipcd_client.wire import tls  # OpenSSL, which few need

    own = introduced.tls
    try:
        context = tls.context(own.chain, own.key, own.authorities, server_side=server_side)
    except BaseException:
        sock.close()
        raise
    return tls.TlsWire(sock, peer=peer, context=context, server_side=server_side, expected=own.peer)
