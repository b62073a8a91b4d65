"""Between a message's bytes and what the program sees."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import BuiltinMethodType
from typing import Any

from google.protobuf.message import Message

from ipcd_client.frame.codec import Payload
from ipcd_client.rpc import status
from ipcd_client.wire import buffers

log = logging.getLogger("ipcd_client")


def serialized(message: Any, serialize: Callable[[Any], bytes] | None) -> bytes | None:
    """A request's bytes; None where the program's serializer raises or gives None, which is logged.

    Raises:
        TypeError: it gives something else than bytes; as grpcio does.
    """
    try:
        data = message if serialize is None else serialize(message)
    except Exception:
        log.exception(status.SERIALIZE_REQUEST_FAILED)
        return None
    if data is not None and not isinstance(data, bytes):
        raise TypeError(f"a message has to be serialized to bytes, not to {type(data).__name__}")
    return data


def parsed(data: Payload, deserialize: Callable[[bytes], Any] | None) -> Any:
    """What the program's deserializer makes of a message. The memory of a large one is used again.

    Raises:
        Exception: whatever the deserializer raises.
    """
    if isinstance(data, bytes):
        return data if deserialize is None else deserialize(data)
    if deserialize is not None and _copies(deserialize):
        message = deserialize(data)  # type: ignore[arg-type]  # protobuf takes a bytearray as well
        buffers.give(data)
        return message
    # Anybody else's may expect bytes, and keep them.
    copy = bytes(data)
    buffers.give(data)
    return copy if deserialize is None else deserialize(copy)


def _copies(deserialize: Callable[[bytes], Any]) -> bool:
    """It is the FromString of a class of protobuf's C implementation, which copies all that it keeps."""
    owner = getattr(deserialize, "__self__", None)
    return (
        isinstance(deserialize, BuiltinMethodType)
        and deserialize.__name__ == "FromString"
        and isinstance(owner, type)
        and issubclass(owner, Message)
    )
