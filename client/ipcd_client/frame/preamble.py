"""The 24 bytes in front of a TCP connection to a node: what it is for, and the token that lets it in.

Fixed in size, so that the node reads exactly this much before it passes the socket on to the server's
process: the first frame is then still in the socket. Layout: proto/FRAME.md section 1.
"""

from __future__ import annotations

import struct
from typing import Final

from ipcd_client.errors import ProtocolError

MAGIC: Final = b"IPCD"
VERSION: Final = 1
PEER: Final = 2  # a link between nodes; the token is zeros
DATA: Final = 3  # a caller introduced by its node; the token is the introduction
TOKEN_SIZE: Final = 16

_LAYOUT: Final = struct.Struct("<4sBBH16s")
SIZE: Final = _LAYOUT.size


def pack(kind: int, token: bytes = bytes(TOKEN_SIZE)) -> bytes:
    """The preamble. `token`: 16 bytes."""
    if len(token) != TOKEN_SIZE:
        raise ValueError(f"a token has {TOKEN_SIZE} bytes, not {len(token)}")
    return _LAYOUT.pack(MAGIC, VERSION, kind, 0, token)


def unpack(raw: bytes) -> tuple[int, bytes]:
    """Kind and token.

    Raises:
        ProtocolError: `bad-preamble`.
    """
    if len(raw) != SIZE:
        raise ProtocolError("bad-preamble", f"{len(raw)} bytes, not {SIZE}")
    magic, version, kind, reserved, token = _LAYOUT.unpack(raw)
    if magic != MAGIC:
        raise ProtocolError("bad-preamble", f"it begins with {magic!r}, not {MAGIC!r}: not an ipcd connection")
    if version != VERSION:
        raise ProtocolError("bad-preamble", f"version {version}, this side speaks {VERSION}")
    if kind not in (PEER, DATA) or reserved:
        raise ProtocolError("bad-preamble", f"kind {kind}, reserved {reserved}")
    return kind, token
