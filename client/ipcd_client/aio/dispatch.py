"""Runs async servicers for the calls of given connections.

>>> server = Server()
>>> node_pb2_grpc.add_NodeServicer_to_server(servicer, server)
>>> server.serve(connection, identity)
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Protocol

import grpc
from grpc.aio import AbortError

from ipcd_client.aio import migration
from ipcd_client.aio.context import Requests, ServicerContext
from ipcd_client.aio.methods import Method, Unfit
from ipcd_client.facade.methods import CallDetails, Methods
from ipcd_client.facade.shapes import Handler
from ipcd_client.frame import events
from ipcd_client.loop.connection import Connection
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")

# Seconds that handlers have to clean up once they are cancelled; who stops a server does not wait for more.
LINGER: Final = 1.0

# A handler's exception as the status of its call; None for those it does not know.
StatusOf = Callable[[Exception], tuple[grpc.StatusCode, str] | None]


class Quota(Protocol):
    """Who says how many calls each peer may have open."""

    def begin(self, identity: Any) -> str:
        """A call begins: why it may not, empty where it may."""

    def end(self, identity: Any) -> None:
        """One that might begin has ended."""


class Server:
    """Generated `add_XServicer_to_server` functions work on it. Handlers are coroutines, or async generators where the
    response is a stream (or coroutines that `write`). One task for each call. Others run in threads of `pool`, or of
    the loop's own executor.

    `status_of` says which exceptions of handlers are meant for the caller; others end in UNKNOWN, as grpc.aio has it.
    `context` makes what handlers get. `most`: calls at one time; `max_send`: of a response in bytes, -1 for no limit.
    `quota` is asked for each call.
    """

    def __init__(
        self,
        *,
        status_of: StatusOf | None = None,
        context: type[ServicerContext] = ServicerContext,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        pool: Executor | None = None,
        most: int | None = None,
        max_send: int = -1,
        quota: Quota | None = None,
    ) -> None:
        # What handlers see of context variables; each call has a copy of its own.
        self.variables = contextvars.copy_context()
        self.handlers = Methods((), ())
        self._status_of = status_of
        self._context = context
        self._interceptors = tuple(interceptors)
        self._pool = pool
        self._most = most
        self._quota = quota
        self._max_send = max_send
        self._methods: dict[str, Method] = {}
        self._running: set[ServicerContext] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As of grpc.aio.Server."""
        self.handlers.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """As of grpc.aio.Server."""
        self.handlers.register(service_name, method_handlers)

    def serve(self, connection: Connection, identity: Any, refusal: Callable[[str], str] | None = None) -> None:
        """Answers the calls of this connection from now on. `identity` is their contexts' `peer_identity`. `refusal`:
        why the caller may not call a method, empty where it may; None where it may call all of them."""

        def on_call(event: events.CallOpened, fds: list[Fd]) -> None:
            if refusal is not None and (why := refusal(event.method)):
                self._refuse(connection, event, fds, why)
            else:
                self._begin(connection, event, fds, identity)

        connection.on_call = on_call

    @property
    def running(self) -> int:
        """Handlers that have not come to their end."""
        return len(self._running)

    async def idle(self) -> None:
        """Until no handler runs, or those that do were given up."""
        await self._idle.wait()

    def cancel_all(self, code: grpc.StatusCode, details: str) -> None:
        """Ends every call with this status, and cancels its handler."""
        for context in list(self._running):
            context.give_up(code, details, details)

    async def stop(self) -> None:
        """Cancels every handler, and waits until they have ended."""
        self.cancel_all(grpc.StatusCode.UNAVAILABLE, "the server has stopped")
        try:
            async with asyncio.timeout(LINGER):
                await self.idle()
        except TimeoutError:
            log.warning("%d handlers go on although they were cancelled", len(self._running))
            self._idle.set()

    @staticmethod
    def _refuse(connection: Connection, event: events.CallOpened, fds: list[Fd], why: str) -> None:
        for fd in fds:
            fd.close()
        call = ServerCall(event, connection.settings.max_message)
        connection.accept(call)
        connection.finish(call, status.to_int(grpc.StatusCode.PERMISSION_DENIED), why)

    def _begin(self, connection: Connection, event: events.CallOpened, fds: list[Fd], identity: Any) -> None:
        call = ServerCall(event, connection.settings.max_message)
        if fds:
            call.fds.extend(fds)
        connection.accept(call)
        method = None
        if not self._interceptors:
            try:
                method = self._known(call)
            except Exception as error:
                log.exception("a generic handler failed to look up %s", call.method)
                connection.finish(call, status.to_int(grpc.StatusCode.UNKNOWN), _unexpected(error))
                return
            if method is None:
                connection.finish(call, status.to_int(grpc.StatusCode.UNIMPLEMENTED), status.METHOD_NOT_FOUND)
                return
        if self._most is not None and len(self._running) >= self._most:
            code = status.to_int(grpc.StatusCode.RESOURCE_EXHAUSTED)
            connection.finish(call, code, status.CONCURRENCY_EXCEEDED)
            return
        if self._quota is not None:
            refusal = self._quota.begin(identity)
            if refusal:
                connection.finish(call, status.to_int(grpc.StatusCode.RESOURCE_EXHAUSTED), refusal)
                return
        loop = asyncio.get_running_loop()
        context = self._context(loop, connection, call, method, identity, self._ended)
        self._running.add(context)
        self._idle.clear()
        context.task = loop.create_task(self._run(call, context), context=self.variables.copy())

    def _ended(self, context: ServicerContext) -> None:
        if self._quota is not None and context in self._running:
            self._quota.end(context.peer_identity)
        self._running.discard(context)
        if not self._running:
            self._idle.set()

    def _known(self, call: ServerCall) -> Method | None:
        """What is known of the method; None if there is none. Generic handlers are asked for each call anew, as they
        may answer differently."""
        name = call.method
        handler = self.handlers.registered.get(name) or self.handlers.find(_details(call))
        if handler is None:
            return None
        method = self._methods.get(name)
        if method is None or method.handler is not handler:
            # Only names that have a handler: those that peers made up must not fill the memory.
            method = self._methods[name] = Method(handler, self._max_send)
        return method

    async def _intercepted(self, call: ServerCall) -> Method:
        """What the interceptors and the handlers choose together."""

        async def chain(index: int, details: grpc.HandlerCallDetails) -> Any:
            if index == len(self._interceptors):
                return self.handlers.find(details)
            return await self._interceptors[index].intercept_service(lambda d: chain(index + 1, d), details)

        handler = await chain(0, _details(call))
        if handler is None:
            raise Unfit(grpc.StatusCode.UNIMPLEMENTED, status.METHOD_NOT_FOUND)
        return Method(handler, self._max_send)

    async def _run(self, call: ServerCall, context: ServicerContext) -> None:
        context.started = True
        message: bytes | None = None
        try:
            method = context.method
            if method is None:
                method = context.method = await self._intercepted(call)
            if method.blocking:
                response = await migration.run(self._pool, method, context)
            elif method.generator:
                argument = Requests(context) if method.request_streaming else await context.only_request()
                response = None
                await self._yielded(method.behavior(argument, context), context)
            elif method.request_streaming:
                response = await method.behavior(Requests(context), context)
            else:
                if call.messages and call.messages[0][1] < 0:
                    # As most do, it came with its call, and nothing waits for its credit.
                    request = method.parsed(call.messages.popleft()[0])
                else:
                    request = await context.only_request()
                response = await method.behavior(request, context)
            if not method.response_streaming and call.active and call.code in _WELL:
                message = method.serialized(response)
        except asyncio.CancelledError:
            if call.active:
                # By itself: nobody has cancelled the call.
                call.code, call.details = grpc.StatusCode.CANCELLED, "the handler was cancelled"
            raise
        except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes a status
            self._failed(call, error, context)
        except BaseException:
            call.code, call.details = grpc.StatusCode.UNKNOWN, "the server was interrupted"
            raise
        finally:
            if call.active:
                context.finish(message)
            context.ended()

    async def _yielded(self, responses: Any, context: ServicerContext) -> None:
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()

    def _failed(self, call: ServerCall, error: Exception, context: ServicerContext) -> None:
        if context.aborted is not None:
            if not isinstance(error, AbortError):
                log.error("%s: %s, after abort()", call.method, error, exc_info=error)
            return
        if isinstance(error, Unfit):
            call.code, call.details = error.code, str(error)
            return
        known = self._status_of(error) if self._status_of is not None else None
        if known is not None:
            call.code, call.details = known
            return
        log.error("%s: %s", call.method, _unexpected(error), exc_info=error)
        if call.code in _WELL:
            call.code = grpc.StatusCode.UNKNOWN
        call.details = _unexpected(error)


_WELL: Final = (None, grpc.StatusCode.OK, status.OK)


def _details(call: ServerCall) -> CallDetails:
    return CallDetails(call.method, md.received(call.metadata))


def _unexpected(error: Exception) -> str:
    """grpc.aio's text for a handler that raised."""
    try:
        return f"Unexpected {type(error)}: {error}"
    except Exception:  # noqa: BLE001  # of the program's own __str__
        return f"Unexpected {type(error)}"
