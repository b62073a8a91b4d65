"""Runs the handler of one call, and sends what it answers."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.facade.context import ServicerContext
from ipcd_client.facade.methods import Method
from ipcd_client.facade.requests import NoRequest, RequestIterator, deserialized, only_request
from ipcd_client.facade.shapes import Handler
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.sync.connection import Connection

if TYPE_CHECKING:
    from ipcd_client.facade.serving import Serving

log = logging.getLogger("ipcd_client")

# A handler whose calls take longer than this on average, in seconds, gets a thread of its own.
SLOW: Final = 0.001
_WEIGHT: Final = 0.2


class Call:
    """One call to be run. (Job) `variables`: the call's context of variables, if its handler was looked up in one."""

    __slots__ = ("_call", "_context", "_method", "_serving", "_variables", "connection", "slow")

    def __init__(
        self,
        serving: Serving,
        connection: Connection,
        call: ServerCall,
        context: ServicerContext,
        method: Method,
        variables: contextvars.Context | None,
    ) -> None:
        self._serving = serving
        self.connection = connection
        self._call = call
        self._context = context
        self._method = method
        self._variables = variables
        self.slow = method.average > SLOW

    @property
    def whose(self) -> object:
        """The process that it is for. (Job)"""
        return self._context.caller

    def run(self) -> None:
        """Runs the handler and sends its answer."""
        start = perf_counter()
        method = self._method
        call = self._call
        lingers = False
        try:
            if method.simple and call.messages and call.messages[0][1] < 0:
                self._run_simple(method.handler, call)
            else:
                # Interceptors and handler share one context of variables, of this call only; as in grpcio.
                variables = contextvars.Context() if self._variables is None else self._variables
                lingers = variables.run(self._run)
        except BaseException:
            # SystemExit and the like: grpcio's caller never hears of them.
            self._context.fail(grpc.StatusCode.UNKNOWN, "the handler's thread was interrupted")
            raise
        finally:
            method.average += _WEIGHT * (perf_counter() - start - method.average)
            if lingers:
                self._serving.lingers(self._context)
            else:
                self._context.ended()
                self._serving.finished(self._context)
                # The two refer to each other: what is no cycle is freed at once, and not by the collector.
                call.user = None

    def reject(self, why: str) -> None:
        """No thread will run it."""
        self._context.fail(grpc.StatusCode.UNAVAILABLE, why)
        self._context.ended()
        self._serving.finished(self._context)

    def _run_simple(self, handler: Any, call: ServerCall) -> None:
        """A call with one message each way, whose request came with it."""
        try:
            request = deserialized(handler.request_deserializer, call.messages.popleft()[0], self._context)
            variables = contextvars.Context() if self._variables is None else self._variables
            response = variables.run(handler.unary_unary, request, self._context)
        except NoRequest:
            return
        except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
            self._failed(error, status.calling_failed(error))
            return
        message = self._serialized(handler.response_serializer, response)
        if message is not None:
            if call.code is None and not call.details and not call.trailing:
                self.connection.reply(call, message)
            else:
                self._context.finish(message)

    def _run(self) -> bool:
        """True if the call goes on without the handler."""
        handler = self._method.handler
        if handler is None:
            try:
                handler = self._serving.methods.intercepted(self._call, self._method)
            except Exception:
                log.exception("an interceptor or a generic handler failed to look up %s", self._call.method)
                self._context.fail(grpc.StatusCode.UNKNOWN, status.LOOKUP_FAILED)
                return False
            if handler is None:
                self._context.fail(grpc.StatusCode.UNIMPLEMENTED, status.METHOD_NOT_FOUND)
                return False
        try:
            if handler.request_streaming:
                deserialize = handler.request_deserializer
                argument: Any = RequestIterator(self._context, self.connection, self._call, deserialize)
            else:
                argument = only_request(handler.request_deserializer, self._context, self.connection, self._call)
            if handler.response_streaming:
                return self._answer_many(handler, argument)
            self._answer(handler, argument)
        except NoRequest:
            pass
        except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
            self._failed(error, status.calling_failed(error))
        return False

    def _answer(self, handler: Handler, argument: Any) -> None:
        behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
        message = self._serialized(handler.response_serializer, behavior(argument, self._context))
        if message is not None:
            self._context.finish(message)

    def _answer_many(self, handler: Handler, argument: Any) -> bool:
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
        if getattr(behavior, "experimental_non_blocking", False):
            # grpcio's way for a handler to keep a stream without a thread; grpcio-health-checking's Watch is one.
            behavior(argument, self._context, lambda response: self._send_later(handler, response))
            return True
        # No iter(): what is no iterator is an error of grpcio's, too.
        responses = behavior(argument, self._context)
        while True:
            try:
                response = next(responses)
            except StopIteration:
                response = None
            except Exception as error:  # noqa: BLE001  # whatever the program raises becomes a status
                self._failed(error, status.iterating_failed(error))
                return False
            if not self._send(handler, response) or not self._call.active:
                return False

    def _send(self, handler: Handler, response: Any) -> bool:
        """Sends one of many responses. None is the end of them, as in grpcio. False: the call is over."""
        if response is None:
            self._context.finish()
            return False
        message = self._serialized(handler.response_serializer, response)
        if message is None:
            return False
        self._call.headers_sent = True
        return self.connection.send(self._call, message, None)

    def _send_later(self, handler: Handler, response: Any) -> None:
        """For a handler that has perhaps returned."""
        if not self._send(handler, response):
            self._context.ended()

    def _serialized(self, serialize: Callable[[Any], bytes] | None, response: Any) -> bytes | None:
        try:
            data = response if serialize is None else serialize(response)
            if not isinstance(data, bytes):
                raise TypeError(f"the serializer returned {type(data).__name__}, not bytes")
        except Exception:
            # A handler may return None, having set a code: that is what the caller gets.
            log.exception(status.SERIALIZE_FAILED)
            self._context.fail(grpc.StatusCode.INTERNAL, status.SERIALIZE_FAILED)
            return None
        limit = self._serving.max_send
        if 0 <= limit < len(data):
            self._context.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, status.sent_too_large(len(data), limit))
            return None
        return data

    def _failed(self, error: Exception, text: str) -> None:
        if self._context.aborted:
            self._context.fail(grpc.StatusCode.UNKNOWN, "")
        elif not (isinstance(error, grpc.RpcError) and not self._call.active):
            # What the request iterator raises when the call is over needs no words.
            if isinstance(error, IpcdError):
                log.error("%s: %s", self._call.method, error)
            else:
                log.error(text, exc_info=error)
            self._context.fail(grpc.StatusCode.UNKNOWN, text)
