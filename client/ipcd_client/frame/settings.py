"""Limits of one connection, and what both ends agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Frame protocol versions that this implementation speaks.
MIN_VERSION: Final = 1
MAX_VERSION: Final = 1

MAX_U32: Final = 0xFFFF_FFFF

# A HELLO must fit here; the smallest max_frame that a peer may name, too.
MAX_HELLO: Final = 4096
# Of the peer's name for itself, in characters; for error texts.
MAX_SOFTWARE: Final = 200
# A method's name in bytes, and the highest id it may get: what the interned names of one connection may cost
# in all is their product, 4 MiB.
MAX_NAME: Final = 1024
MAX_METHOD_ID: Final = 4095
# Of the details of a status, in bytes: longer ones are cut by the sender. It is what gRPC leaves of its limit
# for metadata, 16 KiB, which counts the details in.
MAX_DETAILS: Final = 8 << 10
# Of the reason in RESET and GOAWAY, in bytes: longer ones are cut by both ends.
MAX_REASON: Final = 1024
# Longest time left that travels, in microseconds: 285 years. Beyond, threading and asyncio refuse to wait.
MAX_TIMEOUT: Final = 1 << 53
# Answers (to pings, and refusals) that wait to be sent: a peer that reads needs no more than a few.
MAX_ANSWERS: Final = 4096

RESET_CANCEL: Final = 1  # the caller gave up
RESET_DEADLINE: Final = 2  # the deadline passed at the sender
RESET_REFUSED: Final = 3  # never given to a handler: safe to try elsewhere

GOAWAY_DRAIN: Final = 0  # no new calls; those under way go on
GOAWAY_VIOLATION: Final = 1
GOAWAY_VERSION: Final = 2
GOAWAY_DENIED: Final = 3
GOAWAY_TIMEOUT: Final = 4
GOAWAY_EXHAUSTED: Final = 5  # a limit of this end is reached


def goaway_code(violation: str) -> int:
    """What a GOAWAY because of that violation says."""
    return GOAWAY_VERSION if violation == "no-common-version" else GOAWAY_VIOLATION


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
    # grpcio's limit for metadata, counted as gRPC does: keys, values, and 32 bytes for each entry.
    max_metadata: int = 16 << 10
    # Whether the peer may call us.
    accept_calls: bool = True
    # Whether descriptors may travel.
    accept_fds: bool = False
    software: str = ""
