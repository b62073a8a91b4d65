"""Handlers that are written for threads, on a server that runs on a loop: grpc.aio's migration thread pool.

Such a handler has a thread of the pool for as long as it runs. What it asks of its call is done on the loop's thread,
and it waits for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Final, NoReturn, TypeVar

import grpc
from grpc.aio import EOF
from grpc.aio import UsageError as Misused

from ipcd_client.aio.context import RawMetadata, ServicerContext
from ipcd_client.aio.methods import Method
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status

# Seconds between two looks whether the loop that is to answer is still there.
_LOOK: Final = 1.0

R = TypeVar("R")


async def run(pool: Executor | None, method: Method, context: ServicerContext) -> Any:
    """Runs the handler in a thread: its response, or None when it has sent them all. Cancelled, it gives the thread up,
    which learns of it when it next asks for something."""
    loop = asyncio.get_running_loop()
    blocking = BlockingContext(loop, context)
    argument = BlockingRequests(blocking) if method.request_streaming else await context.only_request()
    behavior = functools.partial(blocking.sends, method) if method.response_streaming else method.behavior
    return await loop.run_in_executor(pool, contextvars.copy_context().run, behavior, argument, blocking)


class BlockingContext(grpc.ServicerContext):
    """`grpc.ServicerContext` of a call that a loop drives."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ServicerContext) -> None:
        self._loop = loop
        self._context = context

    # -- grpc.RpcContext --------------------------------------------------------------------------

    def is_active(self) -> bool:
        """Somebody waits for the answer."""
        return not self._context.done()

    def time_remaining(self) -> Any:
        """Seconds until the caller's deadline; None without one, as grpc.aio has it."""
        return self._context.time_remaining()

    def cancel(self) -> bool:
        """Ends the call. False if it has ended already."""
        return self._ask(self._cancelled())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls it on the loop's thread when the call has ended. False if it has ended already."""
        return self._ask(self._calls_back(callback))

    # -- grpc.ServicerContext ---------------------------------------------------------------------

    def invocation_metadata(self) -> md.Metadata:
        """What the caller sent along."""
        return self._context.invocation_metadata()

    def peer(self) -> str:
        """The caller in words."""
        return self._context.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """Who the caller is."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> str | None:
        """What `peer_identities` are."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:  # type: ignore[override]  # as grpcio's documentation
        """What is known of the caller."""
        return self._context.auth_context()

    def send_initial_metadata(self, initial_metadata: RawMetadata) -> None:
        """Sends initial metadata, once."""
        self._ask(self._context.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: RawMetadata) -> None:
        """Sent with the status."""
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> md.Metadata:
        """As set so far."""
        return self._context.trailing_metadata()

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: RawMetadata = ()) -> NoReturn:
        """Ends the call with an error. Raises `grpc.aio.AbortError`, always."""
        self._ask(self._context.abort(code, details, trailing_metadata))
        raise AssertionError("abort() has returned")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same with what belongs to a status."""
        self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status with which the call ends."""
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """The status's text."""
        self._context.set_details(details)

    def code(self) -> Any:
        """As set so far."""
        return self._context.code()

    def details(self) -> str:
        """As set so far."""
        return self._context.details()

    def set_compression(self, compression: grpc.Compression) -> None:
        """Accepted: local bytes are not compressed."""
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Accepted: local bytes are not compressed."""

    # -- for the handler's thread -----------------------------------------------------------------

    def sends(self, method: Method, argument: Any, context: BlockingContext) -> None:
        """Runs a handler with many responses, and sends them."""
        responses = method.behavior(argument, context)
        try:
            for response in responses:
                if not self.is_active():
                    return
                self._ask(self._context.send(method.serialized(response)))
        except Misused:
            if self.is_active():
                raise
            # The call has ended meanwhile: nobody is to be told.
        finally:
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    def read(self) -> Any:
        """The next request; `grpc.aio.EOF` when there are no more."""
        return self._ask(self._context.read())

    def _ask(self, question: Coroutine[Any, Any, R]) -> R:
        try:
            future = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:
            question.close()  # the loop was closed
            raise
        while True:
            try:
                return future.result(_LOOK)
            except TimeoutError:
                if future.done():
                    raise
                if self._loop.is_closed():
                    raise RuntimeError("the event loop of the server was closed") from None

    async def _cancelled(self) -> bool:
        if self._context.done():
            return False
        self._context.give_up(grpc.StatusCode.CANCELLED, status.CANCELLED, "the handler cancelled the call")
        return True

    async def _calls_back(self, callback: Callable[[], None]) -> bool:
        if self._context.done():
            return False
        self._context.add_done_callback(lambda _: callback())
        return True


class BlockingRequests:
    """The requests of a call, as they come, for a thread."""

    def __init__(self, context: BlockingContext) -> None:
        self._context = context

    def __iter__(self) -> BlockingRequests:
        return self

    def __next__(self) -> Any:
        try:
            request = self._context.read()
        except Misused as error:
            # As in grpcio's own iterator: a call that has ended is no end of the requests.
            raise grpc.RpcError(str(error)) from None
        if request is EOF:
            raise StopIteration
        return request

    next = __next__
