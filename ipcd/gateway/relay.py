"""One call through the gateway: grpcio's context on one side, a call on one of our connections on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from ipcd_client.errors import IpcdError, NodeError, ProtocolError, UsageError, WireError, WireTimeout
from ipcd_client.frame.codec import Metadata
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node.introduction import ATTEMPTS
from ipcd_client.node.target import Target
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall

from ipcd import limits
from ipcd.backends import SETTINGS, Backend
from ipcd.gateway.budget import Budget
from ipcd.gateway.home import Home
from ipcd.gateway.metadata import inbound, outbound
from ipcd.gateway.requests import Requests
from ipcd.servicer import status_of
from ipcd.state.primitives import ABOUT, FOR, WITHHELD

# Gives the connection for a service and a target. `tried` gets the id of the server; those in it are the last choice.
Find = Callable[[str, Target, set[str]], Awaitable[Backend]]


class Relay:
    """A call of any kind: messages are bytes, and either side may send as many as it wants. (loop.connection.User)

    `held` counts the bytes that wait in the gateway. `home`: of a call of a primitive.
    """

    def __init__(self, method: str, context: Any, find: Find, held: Budget, home: Home | None = None) -> None:
        self._home = home
        self._method = method
        self._context = context
        self._find = find
        self._held = held
        self._news = Waiters()
        self._connection: Connection | None = None
        self._call: ClientCall | None = None
        self._counted = 0  # of the call's messages
        self._headed = False

    async def run(self) -> None:
        """Until the call's end, whose status the context then has. Cancelled when the caller is gone."""
        handler = asyncio.current_task()
        assert handler is not None
        requests = Requests(self._context, handler, self._held)
        try:
            call = await self._carried(requests)
        except IpcdError as error:
            code, details = status_of(error) or (error.code, str(error))
            end(self._context, code, details)
        else:
            end(self._context, call.code or grpc.StatusCode.UNKNOWN, call.details, outbound(call.trailing_metadata))
        finally:
            requests.close()

    async def _carried(self, requests: Requests) -> ClientCall:
        entries, target = inbound(self._context.invocation_metadata())
        try:
            metadata = md.checked(entries, SETTINGS.max_metadata)
        except UsageError as error:
            raise limits.LimitReached(str(error)) from error
        service = service_of(self._method)
        tried: set[str] = set()
        if self._home is None:
            first = await requests.first()
        else:
            first = await requests.sure()
            target = self._home.target(first, target)
            withheld = [(WITHHELD, verb) for verb in self._home.withheld(first)]
            about = self._home.about(first)
            metadata = (*metadata, (FOR, self._home.identity), *withheld)
            if about:
                metadata = (*metadata, (ABOUT, about.encode()))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                backend = await self._find(service, target, tried)
            except (NodeError, WireError, ProtocolError) as error:
                # The server is gone, and nobody has noticed yet.
                if attempt < ATTEMPTS and tried:
                    continue
                if isinstance(error, WireTimeout):
                    # Of our own; the caller's deadline is another.
                    raise NodeError(str(error)) from error
                raise
            call = await self._tried(backend, metadata, requests, first)
            if not call.refused or not requests.replayable or attempt == ATTEMPTS:
                return call
            requests.rewind()
            first = await requests.first()
        raise AssertionError("the last attempt returns or raises")

    async def _tried(self, backend: Backend, metadata: Metadata, requests: Requests, first: bytes | None) -> ClientCall:
        connection = backend.connection
        call = ClientCall(self._method, connection.settings.max_message)
        call.user = self
        self._connection, self._call, self._counted = connection, call, 0
        left: float | None = self._context.time_remaining()
        connection.start(call, timeout=left, metadata=metadata, message=first)
        backend.calls += 1
        sending = asyncio.get_running_loop().create_task(requests.send_to(connection, call))
        try:
            await self._answer(connection, call, requests)
        finally:
            backend.calls -= 1
            # The caller's own deadline ends the call here as a cancellation does.
            reset = RESET_DEADLINE if left is not None and not self._context.time_remaining() else RESET_CANCEL
            connection.end(call, grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED, reset)
            sending.cancel()
            await asyncio.wait({sending})
            self._drop_messages(call)
        if not sending.cancelled():
            sending.result()
        return call

    async def _answer(self, connection: Connection, call: ClientCall, requests: Requests) -> None:
        context = self._context
        while True:
            if call.refused:
                return
            if not self._headed and call.initial_metadata is not None:
                requests.forget()
                # A call that fails at once has none: it then ends with its status alone.
                if call.initial_metadata or not call.done:
                    self._headed = True
                    await context.send_initial_metadata(outbound(call.initial_metadata))
            if call.messages:
                self._counted -= 1
                message = bytes(connection.take(call))
                try:
                    await context.write(message)
                finally:
                    self._held.give(len(message))
            elif call.done:
                return
            else:
                await self._news.wait()

    def progressed(self) -> None:
        """(User) Counts what has arrived."""
        call, connection = self._call, self._connection
        assert call is not None
        assert connection is not None
        try:
            while self._counted < len(call.messages):
                self._held.take(len(call.messages[self._counted][0]))
                self._counted += 1
        except IpcdError as error:
            self._drop_messages(call)
            connection.end(call, error.code, str(error))
        self._news.progressed()

    async def wait(self) -> None:
        """Until the call has news. (connection.send)"""
        await self._news.wait()

    def _drop_messages(self, call: ClientCall) -> None:
        self._held.give(sum(len(message) for message, _ in list(call.messages)[: self._counted]))
        self._counted = 0
        call.messages.clear()


def service_of(method: str) -> str:
    """The service's name in a method's path."""
    return method[1:].rpartition("/")[0]


def end(context: Any, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
    """The status with which a call of grpcio ends, once its handler returns."""
    context.set_code(code)
    context.set_details(details)
    if trailing:
        context.set_trailing_metadata(trailing)
