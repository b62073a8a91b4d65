"""Status codes between the wire's integers and grpc's enum, and the texts that grpcio gives."""

from __future__ import annotations

from typing import Final

import grpc

OK: Final = 0
CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

# grpcio's own words, which programs and their tests compare with.
METHOD_NOT_FOUND: Final = "Method not found!"
CONCURRENCY_EXCEEDED: Final = "Concurrent RPC limit exceeded!"
SERIALIZE_FAILED: Final = "Failed to serialize response!"
DESERIALIZE_REQUEST_FAILED: Final = "Exception deserializing request!"
DESERIALIZE_RESPONSE_FAILED: Final = "Exception deserializing response!"
SERIALIZE_REQUEST_FAILED: Final = "Exception serializing request!"
ITERATING_REQUESTS_FAILED: Final = "Exception iterating requests!"
LOCALLY_CANCELLED: Final = "Locally cancelled by application!"
CHANNEL_CLOSED: Final = "Channel closed!"
DEADLINE_EXCEEDED: Final = "Deadline Exceeded"
CANCELLED: Final = "CANCELLED"


def from_int(code: int) -> grpc.StatusCode:
    """The enum; UNKNOWN for a number that has none."""
    return CODES.get(code, grpc.StatusCode.UNKNOWN)


def to_int(code: grpc.StatusCode) -> int:
    """The number that travels."""
    value: int = code.value[0]
    return value


def calling_failed(error: BaseException) -> str:
    """grpcio's text for a handler that raised."""
    return f"Exception calling application: {error}"


def iterating_failed(error: BaseException) -> str:
    """grpcio's text for a response iterator that raised."""
    return f"Exception iterating responses: {error}"


def received_too_large(size: int, limit: int) -> str:
    """grpcio's text for a message over the receiver's limit, both in bytes."""
    return f"Received message larger than max ({size} vs. {limit})"


def sent_too_large(size: int, limit: int) -> str:
    """grpcio's text for a message over the sender's limit, both in bytes."""
    return f"Sent message larger than max ({size} vs. {limit})"
