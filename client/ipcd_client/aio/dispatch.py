"""Runs async servicers for the calls of given connections.

>>> server = Server()
>>> node_pb2_grpc.add_NodeServicer_to_server(servicer, server)
>>> server.serve(connection, identity)
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from grpc.aio import EOF

from ipcd_client.aio.context import BadRequest, ServicerContext
from ipcd_client.frame import events
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.stream import close_all
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")

# A handler's exception as the status of its call; None for those it does not know.
StatusOf = Callable[[Exception], tuple[grpc.StatusCode, str] | None]


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str, invocation_metadata: Any) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class Server:
    """Generated `add_XServicer_to_server` functions work on it. Handlers are coroutines, or async generators where the
    response is a stream (or coroutines that `write`). One task for each call.

    `status_of` says which exceptions of handlers are meant for the caller; others end in UNKNOWN, as grpcio has it.
    """

    def __init__(self, *, status_of: StatusOf | None = None) -> None:
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._status_of = status_of
        self._tasks: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As of grpc.aio.Server."""
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """As of grpc.aio.Server."""
        for method, handler in method_handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler

    def serve(self, connection: Connection, identity: Any) -> None:
        """Answers the calls of this connection from now on. `identity` is their contexts' `peer_identity`."""

        def on_call(event: events.CallOpened, fds: list[Fd]) -> None:
            self._begin(connection, event, fds, identity)

        connection.on_call = on_call

    @property
    def running(self) -> int:
        """Handlers that have not come to their end."""
        return len(self._tasks)

    async def stop(self) -> None:
        """Cancels every handler, and waits until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, connection: Connection, event: events.CallOpened, fds: list[Fd], identity: Any) -> None:
        call = ServerCall(event, connection.settings.max_message)
        call.fds.extend(fds)
        connection.accept(call)
        handler = self._find(call)
        if handler is None:
            code = status.to_int(grpc.StatusCode.UNIMPLEMENTED)
            connection.finish(call, code, status.METHOD_NOT_FOUND)
            return
        context = ServicerContext(connection, call, handler, identity)
        task = asyncio.get_running_loop().create_task(self._run(connection, call, handler, context))
        context.task = task
        self._tasks.add(task)
        # A task that is cancelled before its first step never runs its own `finally`.
        task.add_done_callback(lambda task: self._ended(task, context))

    def _ended(self, task: asyncio.Task[None], context: ServicerContext) -> None:
        self._tasks.discard(task)
        context.ended()

    def _find(self, call: ServerCall) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = self._registered.get(call.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            found = generic.service(_Details(call.method, call.metadata))
            if found is not None:
                return found
        return None

    async def _run(
        self,
        connection: Connection,
        call: ServerCall,
        handler: grpc.RpcMethodHandler[Any, Any],
        context: ServicerContext,
    ) -> None:
        message: bytes | None = None
        try:
            argument = await self._argument(call, handler, context)
            if handler.response_streaming:
                await self._stream(handler, argument, context)
            else:
                behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
                response = await behavior(argument, context)
                if call.code in (None, grpc.StatusCode.OK):
                    message = context.serialized(response)
        except asyncio.CancelledError:
            if call.active:
                # Cancelled from this side, such as by `stop`.
                call.code, call.details = grpc.StatusCode.CANCELLED, "the server is stopping"
                self._finish(connection, call, context, None)
            raise
        except BadRequest:
            pass
        except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes a status
            self._failed(call, handler, error, context)
        self._finish(connection, call, context, message)

    async def _argument(
        self, call: ServerCall, handler: grpc.RpcMethodHandler[Any, Any], context: ServicerContext
    ) -> Any:
        if handler.request_streaming:
            return _requests(context)
        request = await context.read()
        if request is EOF:
            call.code = grpc.StatusCode.UNIMPLEMENTED
            call.details = f"Method {call.method} takes one request, and got none"
            raise BadRequest(call.details)
        return request

    async def _stream(self, handler: grpc.RpcMethodHandler[Any, Any], argument: Any, context: ServicerContext) -> None:
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
        answer = behavior(argument, context)
        if not inspect.isasyncgen(answer):
            await answer
            return
        try:
            async for response in answer:
                await context.write(response)
        finally:
            await answer.aclose()

    def _failed(
        self, call: ServerCall, handler: grpc.RpcMethodHandler[Any, Any], error: Exception, context: ServicerContext
    ) -> None:
        if context.aborted:
            return
        known = self._status_of(error) if self._status_of is not None else None
        if known is not None:
            call.code, call.details = known
            return
        text = status.iterating_failed if handler.response_streaming else status.calling_failed
        log.error("%s: %s", call.method, text(error), exc_info=error)
        if call.code is None:
            call.code, call.details = grpc.StatusCode.UNKNOWN, text(error)

    def _finish(
        self, connection: Connection, call: ServerCall, context: ServicerContext, message: bytes | None
    ) -> None:
        code = call.code
        number = 0 if code is None else status.to_int(code)
        fds = context.take_outgoing()
        if message is None:
            # There is nothing that they would belong to.
            close_all(fds)
            fds = []
        connection.finish(call, number, call.details or "", trailing=call.trailing, message=message, fds=fds)


async def _requests(context: ServicerContext) -> AsyncIterator[Any]:
    while (request := await context.read()) is not EOF:
        yield request
