"""Runs the handler of one call, and sends what it answers."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.facade.context import BadRequest, RequestIterator, ServicerContext, deserialized, too_large
from ipcd_client.facade.shapes import Handler
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.server import Server

log = logging.getLogger("ipcd_client")

# A handler whose calls take longer than this on average, in seconds, gets a thread of its own.
SLOW: Final = 0.001
_WEIGHT: Final = 0.2


class Method:
    """What is known of one method. `handler`: None where interceptors choose it, for each call anew."""

    __slots__ = ("average", "handler", "simple")

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler
        # How long calls keep their thread: a running average, in seconds.
        self.average = 0.0
        self.simple = handler is not None and not (handler.request_streaming or handler.response_streaming)

    def learn(self, seconds: float) -> None:
        """One call took this long. Threads may lose each other's updates: it is an estimate."""
        self.average += _WEIGHT * (seconds - self.average)


class Call:
    """One call to be run. (Job)"""

    __slots__ = ("_call", "_connection", "_context", "_method", "_server", "slow")

    def __init__(
        self,
        server: Server,
        connection: Connection,
        call: ServerCall,
        context: ServicerContext,
        method: Method,
    ) -> None:
        self._server = server
        self._connection = connection
        self._call = call
        self._context = context
        self._method = method
        self.slow = method.average > SLOW

    def run(self) -> None:
        """Runs the handler and sends its answer."""
        start = perf_counter()
        method = self._method
        call = self._call
        try:
            if method.simple and call.messages and call.messages[0][1] < 0:
                self._run_simple(method.handler, call)
            else:
                # Interceptors and handler share one context of variables, of this call only; as in grpcio.
                contextvars.Context().run(self._run)
        except BaseException:
            self._finish_with(grpc.StatusCode.UNKNOWN, "the handler's thread was interrupted")
            raise
        finally:
            method.average += _WEIGHT * (perf_counter() - start - method.average)
            self._context.ended()
            self._server.finished(self._context)
            # The two refer to each other: what is no cycle is freed at once, and not by the collector.
            call.user = None

    def reject(self, why: str) -> None:
        """No thread will run it."""
        self._finish_with(grpc.StatusCode.UNAVAILABLE, why)
        self._context.ended()
        self._server.finished(self._context)

    def _run_simple(self, handler: Any, call: ServerCall) -> None:
        """A call with one message each way, whose request came with it."""
        try:
            request = deserialized(handler.request_deserializer, call.messages.popleft()[0], call)
            response = contextvars.Context().run(handler.unary_unary, request, self._context)
        except BadRequest:
            self._finish()
            return
        except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
            self._failed(error, status.calling_failed(error))
            return
        message = self._serialized(handler.response_serializer, response)
        if message is not None:
            if call.code is None and not call.details and not call.trailing:
                self._connection.reply(call, message)
            else:
                self._reply(message)

    def _run(self) -> None:
        handler = self._method.handler
        try:
            if handler is None:
                handler = self._server.intercepted(self._call)
            if handler is None:
                self._finish_with(grpc.StatusCode.UNIMPLEMENTED, status.METHOD_NOT_FOUND)
                return
            argument = self._argument(handler)
            if handler.response_streaming:
                self._stream(handler, argument)
            else:
                self._answer(handler, argument)
        except BadRequest:
            self._finish()
        except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
            self._failed(error, status.calling_failed(error))

    def _argument(self, handler: Handler) -> Any:
        call = self._call
        if handler.request_streaming:
            return RequestIterator(self._context, self._connection, call, handler.request_deserializer)
        if not call.messages and not call.oversize:
            self._connection.wait(
                call.stream,
                lambda: bool(call.messages) or call.requests_ended or bool(call.oversize) or not call.active,
                None,
            )
        if call.oversize:
            raise too_large(call)
        if not call.messages:
            call.code = grpc.StatusCode.UNIMPLEMENTED
            call.details = f"Method {call.method} takes one request, and got none"
            raise BadRequest(call.details)
        return deserialized(handler.request_deserializer, self._connection.take(call), call)

    def _answer(self, handler: Handler, argument: Any) -> None:
        behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
        message = self._serialized(handler.response_serializer, behavior(argument, self._context))
        if message is not None:
            self._reply(message)

    def _reply(self, message: bytes) -> None:
        call = self._call
        code = call.code
        if code is None:
            self._connection.finish(call, 0, call.details, trailing=call.trailing, message=message)
        else:
            self._finish(message if code is grpc.StatusCode.OK else None)

    def _stream(self, handler: Handler, argument: Any) -> None:
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
        responses = iter(behavior(argument, self._context))
        while self._call.active:
            try:
                response = next(responses)
            except StopIteration:
                self._finish()
                return
            except BadRequest:
                raise
            except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
                self._failed(error, status.iterating_failed(error))
                return
            message = self._serialized(handler.response_serializer, response)
            if message is None or not self._connection.send(self._call, message, None):
                return

    def _serialized(self, serialize: Callable[[Any], bytes] | None, response: Any) -> bytes | None:
        try:
            data = response if serialize is None else serialize(response)
            if not isinstance(data, bytes):
                raise TypeError(f"the serializer returned {type(data).__name__}, not bytes")
        except Exception:
            log.exception(status.SERIALIZE_FAILED)
            self._finish_with(grpc.StatusCode.INTERNAL, status.SERIALIZE_FAILED)
            return None
        limit = self._server.max_send
        if 0 <= limit < len(data):
            self._finish_with(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), limit))
            return None
        return data

    def _failed(self, error: Exception, text: str) -> None:
        call = self._call
        if self._context.aborted:
            self._finish()
        elif call.active:
            if isinstance(error, IpcdError):
                log.error("%s: %s", call.method, error)
            else:
                log.error(text, exc_info=error)
            if call.code is None:
                call.code = grpc.StatusCode.UNKNOWN
                call.details = text
            self._finish()

    def _finish(self, message: bytes | None = None) -> None:
        call = self._call
        code: Any = call.code
        if code is None:
            number = 0
        elif isinstance(code, grpc.StatusCode):
            number = status.to_int(code)
        else:
            number = 2  # grpcio: a code that is none of the enum's becomes UNKNOWN
        self._connection.finish(call, number, call.details or "", trailing=call.trailing, message=message)

    def _finish_with(self, code: grpc.StatusCode, details: str) -> None:
        self._connection.finish(self._call, status.to_int(code), details, trailing=self._call.trailing)
