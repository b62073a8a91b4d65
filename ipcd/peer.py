"""One end of a link with another node: how it is dialed, and how messages go over it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from grpc.aio import EOF, UsageError
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError, WireClosed
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.stream import ClientStream
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import peer_pb2
from ipcd_client.wire.tcp import join_address, split_address

from ipcd.state.catalog import BadUpdate
from ipcd.state.clock import ClockTalk
from ipcd.state.members import Link
from ipcd.state.quota import Owner

# Introductions asked for at one time; the others wait.
INTRODUCTIONS: Final = 48


class Talk(Protocol):
    """The call `Peer.Link`, from either end."""

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        """Sends, once there is credit."""

    async def receive(self) -> peer_pb2.LinkMessage | None:
        """The next message; None at the end."""


class Called:
    """From the end that dialed. (Talk)"""

    def __init__(self, stream: ClientStream) -> None:
        self._stream = stream
        self._ahead: peer_pb2.LinkMessage | None = None

    def unread(self, message: peer_pb2.LinkMessage) -> None:
        """Puts the last message back."""
        self._ahead = message

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        await self._stream.send(message.SerializeToString())

    async def receive(self) -> peer_pb2.LinkMessage | None:
        if self._ahead is not None:
            message, self._ahead = self._ahead, None
            return message
        data = await self._stream.receive()
        if data is None:
            return None
        try:
            return peer_pb2.LinkMessage.FromString(data)
        except DecodeError as error:
            raise _unparsable(error) from error


class Served:
    """From the end that accepted. (Talk)"""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        try:
            await self._context.write(message)
        except UsageError:
            raise self._over() from None

    async def receive(self) -> peer_pb2.LinkMessage | None:
        try:
            message = await self._context.read()
        except UsageError:
            raise self._over() from None
        except DecodeError as error:
            raise _unparsable(error) from error
        return None if message is EOF else message

    def _over(self) -> WireClosed:
        """The call ended while a task waited that is not its handler's, and so was not cancelled with it."""
        return WireClosed(self._context.why_cancelled() or "the link's call is over")


def _unparsable(error: DecodeError) -> BadUpdate:
    return BadUpdate(f"a LinkMessage does not parse: {error}")


class Peer:
    """The connection with another node. `link` is None until both have said who they are, and the link is kept."""

    def __init__(self, connection: Connection, remote: str, owner: Owner, *, dialed: bool) -> None:
        self.connection = connection
        self.remote = remote
        self.owner = owner
        self.dialed = dialed
        self.link: Link | None = None
        self.refusal: IpcdError | None = None
        self.settled = asyncio.Event()  # linked, refused or closed
        # Fewer at a time than the other end takes calls, so that none is refused for it.
        self.introductions = asyncio.Semaphore(INTRODUCTIONS)
        self.hurried = Waiters()  # there is something to tell
        self.clock = ClockTalk()

    async def linked(self) -> Link | None:
        """The link; None if there is none. The end that was dialed may ask for something as soon as it has decided that
        there is one, which this end then has not taken in yet: it will, or the connection ends."""
        if self.link is None and self.dialed:
            await self.settled.wait()
        return self.link


def hello_of(message: peer_pb2.LinkMessage | None) -> peer_pb2.PeerHello:
    """The first message of a link.

    Raises:
        BadUpdate: it is something else.
    """
    if message is None or not message.HasField("hello"):
        raise BadUpdate("the link does not begin with a hello")
    return message.hello


def reachable(told: str, remote: str) -> str:
    """Where a node that dialed us can be dialed: it may only know that it listens on every address."""
    try:
        host, port = split_address(told)
    except IpcdError:
        return ""
    if host in {"0.0.0.0", "::", ""}:
        host = split_address(remote)[0]
    return join_address(host, port)
