"""Holds one link until its end: what is sent and heard over it, and the heartbeat that notices when nothing is.

What is said there and what it means: state/exchange.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable
from typing import Final

from ipcd_client.errors import IpcdError, WireTimeout
from ipcd_client.frame import settings as frame_settings

from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.peer import Peer, Talk
from ipcd.state import heartbeat
from ipcd.state import members as state
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Link

# Seconds.
HEARTBEAT: Final = heartbeat.EVERY
# Between two questions after the time there; after the first few, which find out what the delay is.
CLOCK: Final = 10.0
CLOCK_FIRST: Final = 4
# A node that was told of and could not be reached for some time is given up. While there are others who reach it, they
# say so again this often: two nodes whose path to each other alone was cut find together when it is whole again.
RETELL: Final = 30.0


class LinkKeeper:
    """Of the link `link` with `peer`. `found`: is told of each node that is named there: its address, how it was found,
    its name and its incarnation."""

    def __init__(
        self,
        peer: Peer,
        link: Link,
        outbox: Outbox,
        talk: Talk,
        exchange: Exchange,
        broker: Broker,
        log: Log,
        found: Callable[[str, str, str, str], None],
    ) -> None:
        self._peer = peer
        self._link = link
        self._outbox = outbox
        self._talk = talk
        self._exchange = exchange
        self._broker = broker
        self._log = log
        self._found = found
        self._loop = asyncio.get_running_loop()

    async def hold(self, ended: Callable[[IpcdError | None], None]) -> None:
        """Until the link's end, of which it tells `ended`, with what was wrong on this end or in what came."""
        work = [
            self._loop.create_task(self._send()),
            self._loop.create_task(self._receive()),
            self._loop.create_task(self._heartbeat()),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
            ended(next((e for e in results if isinstance(e, IpcdError)), None))
            for error in results:
                if isinstance(error, Exception) and not isinstance(error, IpcdError):
                    raise error

    async def _send(self) -> None:
        peer = self._peer
        while True:
            message = peer.clock.next(time.time(), self._loop.time()) or self._outbox.next(self._broker.catalog.whole)
            if message is None:
                await peer.hurried.wait()
            else:
                await self._talk.send(message)

    async def _receive(self) -> None:
        peer = self._peer
        while (message := await self._talk.receive()) is not None:
            if peer.clock.hear(message, time.time(), self._loop.time()):
                peer.hurried.progressed()
                continue
            heard = self._exchange.hear(self._link, message)
            if heard.catalog:
                self._broker.changed.progressed()
            for known in heard.nodes:
                self._found(known.address, state.LEARNED, known.node, known.incarnation)

    async def _heartbeat(self) -> None:
        peer, link = self._peer, self._link
        connection, beat = peer.connection, link.heartbeat
        pings: set[asyncio.Task[None]] = set()
        pinged, told, asked = -math.inf, self._loop.time(), -math.inf
        try:
            while True:
                now = self._loop.time()
                link.heard = connection.heard
                silence = now - link.heard
                if silence >= beat.dead_after:
                    error = WireTimeout(f"heartbeat: node {link.node} is silent for {silence:.1f} s")
                    connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
                    raise error
                if link.suspect != (silence >= beat.suspect_after):
                    link.suspect = not link.suspect
                    words = "node suspected" if link.suspect else "node is back"
                    self._log.info(words, peer=link.node, silence=silence)
                if beat.ping_due(silence, now - pinged):
                    pinged = now
                    ping = self._loop.create_task(self._ping())
                    pings.add(ping)
                    ping.add_done_callback(pings.discard)
                    if now - asked >= (CLOCK if peer.clock.asked >= CLOCK_FIRST else 0.0):
                        asked = now
                        peer.clock.ask()
                        peer.hurried.progressed()
                    if now - told >= RETELL:
                        told = now
                        self._exchange.retell(link, random.random())
                await asyncio.sleep(beat.pause(silence, now - pinged))
        finally:
            for ping in pings:
                ping.cancel()

    async def _ping(self) -> None:
        """The link's end is noticed elsewhere."""
        link = self._link
        with contextlib.suppress(IpcdError):
            link.heartbeat.answered(await self._peer.connection.ping(heartbeat.DEAD_MOST))
            link.rtt = link.heartbeat.rtt
