"""Limits of one connection, and what both ends agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Frame protocol versions that this implementation speaks.
MIN_VERSION: Final = 1
MAX_VERSION: Final = 1

# Before the peer's HELLO has come nothing but our own HELLO may be sent, and it must fit here.
MAX_HELLO: Final = 4096

RESET_CANCEL: Final = 1  # the caller gave up
RESET_DEADLINE: Final = 2  # the deadline passed at the sender
RESET_REFUSED: Final = 3  # never given to a handler: safe to try elsewhere

GOAWAY_DRAIN: Final = 0  # no new calls; those under way go on
GOAWAY_VIOLATION: Final = 1
GOAWAY_VERSION: Final = 2
GOAWAY_DENIED: Final = 3
GOAWAY_TIMEOUT: Final = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """What one end lets the other do. All sizes in bytes."""

    # Larger messages come in several frames, so that one cannot hold up the others for long.
    max_frame: int = (4 << 20) + (64 << 10)
    # Messages read ahead of the application, per call.
    initial_window: int = 256 << 10
    # Calls the peer may have open.
    max_streams: int = 16384
    # grpcio's default for `grpc.max_receive_message_length`; -1 for no limit.
    max_message: int = 4 << 20
    # grpcio's limit for metadata.
    max_metadata: int = 16 << 10
    # Method names the peer may intern; each costs memory for the connection's life.
    max_methods: int = 4096
    # Whether the peer may call us.
    accept_calls: bool = True
    # Whether descriptors may travel.
    accept_fds: bool = False
    software: str = ""
