"""A server's registration at its node, on an event loop: for ever, and again after the daemon was away."""

from __future__ import annotations

import asyncio
import logging

from ipcd_client.errors import IpcdError, NodeError, WireClosed
from ipcd_client.loop.connection import Connection
from ipcd_client.node import attach, loop_attach
from ipcd_client.node.registering import (
    REGISTER_TIMEOUT,
    OnGrant,
    Receiver,
    Returning,
    Starting,
    attach_timeout,
    wire_to,
)
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.call import ClientCall
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd

log = logging.getLogger("ipcd_client")


class LoopRegistration:
    """One server's, on the loop that runs `start`. `on_grant` is called with each introduction and the wire to the
    caller, which it owns from then on."""

    def __init__(self, path: str, request: node_pb2.RegisterRequest, on_grant: OnGrant) -> None:
        self.path = path
        self.server: node_pb2.Server | None = None
        self._request = request
        self._on_grant = on_grant
        self._closing = asyncio.Event()
        self._connection: Connection | None = None
        self._call: ClientCall | None = None
        self._returning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Attaches and registers. Tries for `attach_timeout()` seconds while there is no daemon.

        Raises:
            IpcdError: why it could not.
        """
        now = asyncio.get_running_loop().time
        starting = Starting(attach_timeout(), now())
        while True:
            try:
                await self._attach()
                return
            except IpcdError as error:
                if await self._closes_within(starting.failed(error, now())):
                    raise

    def update(self, services: list[str]) -> None:
        """Registers what is served now instead."""
        del self._request.services[:]
        self._request.services.extend(services)
        if self._connection is not None and self._call is not None:
            self._connection.send_now(self._call, self._request.SerializeToString())

    def close(self) -> None:
        """Ends the registration: the node introduces nobody more."""
        self._closing.set()
        if self._returning is not None:
            self._returning.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(WireClosed("the server has stopped"))

    def granted(self, grant: node_pb2.Grant, fd: Fd) -> None:
        """The node introduces a caller, whose connection is `fd`."""
        wire = wire_to(grant, fd)
        if wire is not None:
            self._on_grant(grant, wire)

    def confirmed(self, server: node_pb2.Server) -> None:
        """The node has taken the registration in."""
        self.server = server

    async def _attach(self) -> None:
        connection = await loop_attach.connect(self.path)
        try:
            call = ClientCall(attach.API + "Register", attach.SETTINGS.max_message)
            receiver = call.user = _Receiver(self, connection, call)
            connection.start(call, message=self._request.SerializeToString())
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT):
                    await receiver.settled.wait()
            except TimeoutError:
                raise NodeError(f"{connection.wire.peer()} did not confirm the registration") from None
            if call.code is not None:
                raise CallFailed(call.code, call.details or "the registration was ended")
            if self._closing.is_set():
                raise NodeError("the server was stopped before it was registered")
        except BaseException as error:
            connection.fail(error if isinstance(error, IpcdError) else NodeError("the registration was interrupted"))
            raise
        self._connection, self._call = connection, call
        connection.on_closed = self._lost

    def _lost(self, error: IpcdError) -> None:
        if self._connection is None:
            return
        self._connection = None
        log.info("%s; registering again", error)
        self._returning = asyncio.get_running_loop().create_task(self._attach_again())

    async def _attach_again(self) -> None:
        returning = Returning()
        while not await self._closes_within(returning.pause()):
            try:
                await self._attach()
                return
            except IpcdError as error:
                returning.failed(error)

    async def _closes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True


class _Receiver(Receiver):
    """`settled`: registered, or refused."""

    def __init__(self, registration: LoopRegistration, connection: Connection, call: ClientCall) -> None:
        super().__init__(registration, connection, call, asyncio.Event())
        self.settled = asyncio.Event()

    def progressed(self) -> None:
        super().progressed()
        if self.registered.is_set() or self._call.done:
            self.settled.set()
