"""Dials the other nodes: looks up what names stand for, waits until a dial is due, and gets as far as who is there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from ipcd_client.errors import IpcdError, WireClosed, WireError, WireTimeout
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.loop import dial
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import peer_pb2
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits
from ipcd.log import Log
from ipcd.peer import Called, Peer, Talk, hello_of
from ipcd.state import members as state
from ipcd.state.catalog import BadUpdate
from ipcd.state.members import Address, Link, Members

# Seconds.
# Of a dial: time for a second SYN, which goes out after 1 s. Longer, and a cut that has healed would be noticed late.
DIAL: Final = 1.6
# Until it is known who is on the other end of a connection, dialed or accepted.
HELLO: Final = 2.5
# Between two look-ups of a configured name, where it has led to a link.
LOOK_UP: Final = 20.0
# Connections being dialed at one time.
DIALING: Final = 64

_LINK: Final = "/ipcd.v1.Peer/Link"
_SILENT: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT}


class Links(Protocol):
    """This node's links, as the dialer needs them."""

    def peer(self, sock: socket.socket, remote: str, *, dialed: bool) -> Peer:
        """Who is on the other end of a connection, which it owns and serves from now on."""

    def hello(self) -> peer_pb2.PeerHello:
        """What this node says of itself."""

    def judge(self, peer: Peer, hello: peer_pb2.PeerHello) -> Link | None:
        """The link that this one would replace, if any.

        Raises:
            IpcdError: there is to be no link.
        """

    def dialed_link(
        self, peer: Peer, hello: peer_pb2.PeerHello, replaced: Link | None, entry: Address, talk: Talk
    ) -> None:
        """Takes a link in that was judged just now, and sees to it that it is held."""

    def complain(self, who: str, event: str, **fields: object) -> None:
        """Warns, but not again and again of the same."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it as a task that ends with the links at the latest."""


class Dialer:
    """Of one node: `run` dials whatever `members` says is due."""

    def __init__(self, links: Links, members: Members, log: Log) -> None:
        self.wake = Waiters()  # something may be due that was not
        self._links = links
        self._members = members
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._looking_up: dict[str, asyncio.Task[None]] = {}

    def configure(self, addresses: tuple[str, ...]) -> None:
        """These are the configured peers now."""
        names = tuple(address for address in addresses if not dial.is_numeric(address))
        self._members.configured(tuple(one for one in addresses if one not in names), self._loop.time(), names)
        for name in list(self._looking_up):
            if name not in names:
                self._looking_up.pop(name).cancel()
        for name in names:
            if name not in self._looking_up:
                self._looking_up[name] = self._links.spawn(self._look_up(name))
        self.wake.progressed()

    async def _look_up(self, name: str) -> None:
        """Keeps track of what a configured name stands for. Again with each try, as long as one may help."""
        while True:
            pause = state.RETRY_MOST
            try:
                addresses = await dial.resolve(name)
            except IpcdError as error:
                if self._members.unresolved(name, str(error), self._loop.time()):
                    self._log.warning("no link", address=name, reason=error)
            else:
                try:
                    if self._members.resolved(name, addresses[: limits.NODES], self._loop.time()):
                        pause = LOOK_UP
                except limits.LimitReached as error:
                    self._links.complain(name, "node not taken up", address=name, reason=error)
                self.wake.progressed()
            await asyncio.sleep(pause * (0.5 + random.random() / 2))

    async def run(self) -> None:
        """Dials what is due, for ever."""
        slots = asyncio.Semaphore(DIALING)
        while True:
            entry, soonest = self._members.next_due(self._loop.time())
            if entry is None:
                timeout = None if soonest is None else max(0.0, soonest - self._loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self.wake.wait()
                continue
            entry.dialing = True
            await slots.acquire()
            task = self._links.spawn(self._dial(entry))
            task.add_done_callback(lambda _: slots.release())

    async def _dial(self, entry: Address) -> None:
        try:
            peer, talk, hello, replaced = await self._dialed(entry)
        except (IpcdError, OSError) as error:
            self._dial_failed(entry, error)
        else:
            entry.dialing = False
            entry.error = ""
            # At once: what is accepted in between would be judged as if this link were not there.
            self._links.dialed_link(peer, hello, replaced, entry, talk)
        finally:
            entry.dialing = False
            self.wake.progressed()

    def _dial_failed(self, entry: Address, error: IpcdError | OSError) -> None:
        if entry.ourselves:
            self._log.debug("found this node itself", address=entry.address)
            return
        silent = _is_silent(error)
        news = self._members.failed(entry, str(error), self._loop.time(), random.random(), silent=silent)
        if not news or _is_superfluous(error):
            return
        # What nobody configured comes and goes with its node.
        quiet = isinstance(error, WireError) and state.CONFIGURED not in entry.sources
        log = self._log.debug if quiet else self._log.warning
        log("no link", address=entry.address, peer=entry.node, reason=error)

    async def _dialed(self, entry: Address) -> tuple[Peer, Talk, peer_pb2.PeerHello, Link | None]:
        sock = await dial.tcp(entry.address, DIAL, preamble.pack(preamble.PEER))
        peer = self._links.peer(sock, entry.address, dialed=True)
        connection = peer.connection
        try:
            async with asyncio.timeout(HELLO):
                await connection.handshake()
                talk = Called(connection.stream(_LINK))
                await talk.send(peer_pb2.LinkMessage(hello=self._links.hello()))
                hello = hello_of(await talk.receive())
                self._members.met(entry, hello.node, hello.incarnation)
                # The other end says who it is before it decides: it has decided when something follows.
                first = await talk.receive()
            if first is None:
                raise BadUpdate("the other end ended the link at once")
            talk.unread(first)
            replaced = self._links.judge(peer, hello)
        except TimeoutError:
            error = WireTimeout(f"{entry.address} did not say who it is within {HELLO:g} s")
            connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
            raise error from None
        except BaseException as error:
            connection.fail(error if isinstance(error, IpcdError) else WireClosed("the dial was given up"))
            raise
        return peer, talk, hello, replaced


def _is_superfluous(error: Exception) -> bool:
    """The refusal of a link that is not needed, by us or by the other end."""
    return isinstance(error, state.Superfluous) or (
        isinstance(error, CallFailed) and error.code is state.Superfluous.code
    )


def _is_silent(error: Exception) -> bool:
    """Nothing answered a dial: it may be a cut."""
    cause = error.__cause__
    return isinstance(error, WireTimeout) or (isinstance(cause, OSError) and cause.errno in _SILENT)
