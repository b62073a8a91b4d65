"""One method of an aio server: how its handler wants to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc

from ipcd_client.facade.messages import parsed
from ipcd_client.facade.shapes import Handler
from ipcd_client.frame.codec import Payload
from ipcd_client.rpc import status


class Unfit(Exception):
    """A message that cannot travel, or did not come: the call ends with `code` and the text."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Method:
    """What is known of a handler. `max_send`: the limit for a response in bytes; -1 for none."""

    __slots__ = (
        "behavior",
        "blocking",
        "generator",
        "handler",
        "max_send",
        "request_streaming",
        "response_streaming",
    )

    def __init__(self, handler: Handler, max_send: int) -> None:
        self.handler = handler
        self.max_send = max_send
        self.request_streaming: bool = handler.request_streaming
        self.response_streaming: bool = handler.response_streaming
        self.behavior: Any = (
            (handler.stream_stream if self.request_streaming else handler.unary_stream)
            if self.response_streaming
            else (handler.stream_unary if self.request_streaming else handler.unary_unary)
        )
        # The responses are what it yields; otherwise it writes them.
        self.generator = inspect.isasyncgenfunction(self.behavior)
        # It is none for event loops: a thread runs it.
        self.blocking = not self.generator and not inspect.iscoroutinefunction(self.behavior)

    def parsed(self, data: Payload) -> Any:
        """A request as the handler wants it.

        Raises:
            Exception: it does not parse; as the deserializer has it.
        """
        deserialize: Callable[[bytes], Any] | None = self.handler.request_deserializer
        return parsed(data, deserialize)

    def serialized(self, response: Any) -> bytes:
        """A response as it travels.

        Raises:
            Unfit: it is over the limit.
            Exception: it does not serialize; as the serializer has it.
        """
        serialize: Callable[[Any], bytes] | None = self.handler.response_serializer
        data = response if serialize is None else serialize(response)
        if not isinstance(data, bytes):
            raise TypeError(f"{status.SERIALIZE_FAILED} It became {type(data).__name__}, not bytes")
        if 0 <= self.max_send < len(data):
            raise Unfit(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), self.max_send))
        return data
