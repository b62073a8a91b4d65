"""Status codes between the wire's integers and grpc's enum, and the texts that grpcio gives."""

from __future__ import annotations

from typing import Final

import grpc

OK: Final = 0
CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

# grpcio's own words, which programs and their tests compare with.
METHOD_NOT_FOUND: Final = "Method not found!"
CONCURRENCY_EXCEEDED: Final = "Concurrent RPC limit exceeded!"
LOOKUP_FAILED: Final = "Error in service handler!"
INVALID_METADATA: Final = "Invalid metadata"
SERIALIZE_FAILED: Final = "Failed to serialize response!"
DESERIALIZE_REQUEST_FAILED: Final = "Exception deserializing request!"
DESERIALIZE_RESPONSE_FAILED: Final = "Exception deserializing response!"
SERIALIZE_REQUEST_FAILED: Final = "Exception serializing request!"
ITERATING_REQUESTS_FAILED: Final = "Exception iterating requests!"
LOCALLY_CANCELLED: Final = "Locally cancelled by application!"
DROPPED: Final = "Cancelled upon garbage collection!"
CHANNEL_CLOSED: Final = "Channel closed!"
DEADLINE_EXCEEDED: Final = "Deadline Exceeded"
CANCELLED: Final = "CANCELLED"
NO_CREDENTIALS: Final = "Established channel does not have a sufficient security level to transfer call credential."


def from_int(code: int) -> grpc.StatusCode:
    """The enum; UNKNOWN for a number that has none."""
    return CODES.get(code, grpc.StatusCode.UNKNOWN)


def to_int(code: grpc.StatusCode) -> int:
    """The number that travels."""
    value: int = code.value[0]
    return value


def calling_failed(error: BaseException) -> str:
    """grpcio's text for a handler that raised."""
    try:
        return f"Exception calling application: {error}"
    except Exception:  # noqa: BLE001  # of the program's own __str__
        return "Calling application raised unprintable Exception!"


def iterating_failed(error: BaseException) -> str:
    """grpcio's text for a response iterator that raised."""
    try:
        return f"Exception iterating responses: {error}"
    except Exception:  # noqa: BLE001  # of the program's own __str__
        return "Calling application raised unprintable Exception!"


def one_request_missing(method: str) -> str:
    """For a call that takes one request and got none."""
    return f'"{method}" requires exactly one request message.'


def received_too_large(size: int, limit: int) -> str:
    """grpcio's text for a message over the receiver's limit, both in bytes."""
    return f"Received message larger than max ({size} vs. {limit})"


def sent_too_large(size: int, limit: int) -> str:
    """grpcio's text for a message over the sender's limit, both in bytes."""
    return f"Sent message larger than max ({size} vs. {limit})"
