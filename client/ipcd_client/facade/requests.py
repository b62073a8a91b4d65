"""The requests of a call, as its handler gets them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from ipcd_client.facade.context import ServicerContext, asked
from ipcd_client.facade.messages import parsed
from ipcd_client.frame.codec import Payload
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.sync.connection import Connection

log = logging.getLogger("ipcd_client")


class NoRequest(Exception):
    """There is none that the handler could be given. The call has ended."""


def deserialized(deserialize: Callable[[bytes], Any] | None, data: Payload, context: ServicerContext) -> Any:
    """The request's message. None counts as a failure, as in grpcio.

    Raises:
        NoRequest: it does not parse.
    """
    try:
        request = parsed(data, deserialize)
    except Exception:
        log.exception(status.DESERIALIZE_REQUEST_FAILED)
        request = None
    if request is None:
        context.fail(grpc.StatusCode.INTERNAL, status.DESERIALIZE_REQUEST_FAILED)
        raise NoRequest
    return request


def only_request(
    deserialize: Callable[[bytes], Any] | None, context: ServicerContext, connection: Connection, call: ServerCall
) -> Any:
    """The request of a call that has one. Waits for it.

    Raises:
        NoRequest: it does not come, is over the limit, or does not parse.
    """
    if not call.messages and not call.oversize:
        connection.wait(call.stream, lambda: asked(call), None)
    if call.messages and call.active:
        return deserialized(deserialize, connection.take(call), context)
    if call.oversize:
        _too_large(context, call)
    elif call.active:
        context.fail(grpc.StatusCode.UNIMPLEMENTED, status.one_request_missing(call.method))
    raise NoRequest


class RequestIterator:
    """The requests of a call that has many, as they come."""

    def __init__(self, context: ServicerContext, connection: Connection, call: ServerCall, deserialize: Any) -> None:
        self._context = context
        self._connection = connection
        self._call = call
        self._deserialize = deserialize

    def __iter__(self) -> RequestIterator:
        return self

    def __next__(self) -> Any:
        call = self._call
        if not call.messages and not call.requests_ended:
            self._connection.wait(
                call.stream,
                lambda: bool(call.messages) or call.requests_ended or not call.active or bool(call.oversize),
                None,
            )
        if call.active and call.messages:
            try:
                return deserialized(self._deserialize, self._connection.take(call), self._context)
            except NoRequest:
                # As in grpcio, the handler sees no more than an end of the requests, of a call that is over.
                raise StopIteration from None
        if call.active and call.oversize:
            _too_large(self._context, call)
            raise grpc.RpcError
        if call.cancelled is not None or call.oversize:
            raise grpc.RpcError
        raise StopIteration

    next = __next__

    @property
    def only_one(self) -> bool:
        """There is one request, which is here, and no other comes: as if the method took one only."""
        call = self._call
        return call.requests_ended and len(call.messages) == 1


def _too_large(context: ServicerContext, call: ServerCall) -> None:
    context.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, status.received_too_large(call.oversize, call.limit))
