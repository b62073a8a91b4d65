"""The exposed gRPC server's address, and a channel to it."""

from __future__ import annotations

from typing import Final

import grpc

from ipcd_client import __version__
from ipcd_client.errors import ConfigError
from ipcd_client.wire.tcp import split_address

# Bytes. What a message may have is for the two programs to say, each of which has a limit of its own; this one is
# against a message that would take this process down.
MAX_MESSAGE: Final = 256 << 20

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.primary_user_agent", f"ipcd-expose/{__version__}"),
    # Of grpcio's own pauses, up to two minutes, the server would know nothing when it comes back. The least one is also
    # how long an attempt to connect may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def checked(address: str) -> str:
    """HOST:PORT or unix:PATH, as grpcio takes it.

    Raises:
        ConfigError: it is neither.
    """
    if address.startswith("unix:"):
        if address.rstrip("/") == "unix:":
            raise ConfigError(f"{address!r} names no socket: it is unix:PATH")
        return address
    _, port = split_address(address)
    if port == 0:
        raise ConfigError(f"{address!r}: nobody is reached at port 0")
    return address


def channel(address: str, *, tls: bool, ca: bytes | None) -> grpc.Channel:
    """To a `checked` address. It is the caller's to close.

    Args:
        tls: whether to demand a certificate for the address's host.
        ca: the certificates, in PEM, that one has to lead to; None: those that the system trusts.
    """
    if tls:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), OPTIONS)
    return grpc.insecure_channel(address, OPTIONS)
