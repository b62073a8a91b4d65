"""Finds the other nodes, and lets them find this one, with multicast DNS (RFC 6762, 6763) as `_ipcd._tcp.local.`

It only finds: who is alive, and who serves what, is the links' business. It speaks on the interfaces of the address
that the node listens on, or on those that were chosen, and on no other: nobody beyond them could connect. When those
change, it begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from ipcd_client import __version__
from ipcd_client.errors import IpcdError
from ipcd_client.wire.tcp import join_address, split_address

from ipcd import limits
from ipcd.discovery import interfaces
from ipcd.discovery.interfaces import Plan
from ipcd.log import Log
from ipcd.state.members import ZEROCONF

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE: Final = "_ipcd._tcp.local."
# Seconds. Records of a killed node are forgotten after this long, not after the 75 minutes that RFC 6762 proposes for
# what hardly changes.
TTL: Final = 75
# A record that ran out while the network was away comes back with the next announcement: nobody asks for it again.
ANNOUNCE: Final = 25.0
ANSWER: Final = 3.0
GOODBYE: Final = 2.0
# Records being looked up at one time, and addresses taken of one node.
LOOKUPS: Final = 32
ADDRESSES: Final = 8
# Changes of interfaces come several at a time.
SETTLE: Final = 0.3
# Where the kernel does not tell of them, it is asked.
POLL: Final = 5.0
# Nodes that were found before interfaces changed have this long to be found again.
FORGET: Final = 15.0


class Listener(Protocol):
    """Who wants to know."""

    def found(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        """A node is said to be at HOST:PORT."""

    def lost(self, address: str, source: str) -> None:
        """It is not there any more."""


class Discovery:
    """`start`, then `close`. `address`: HOST:PORT that other nodes are told. `chosen`: names or addresses of the
    interfaces to speak on; empty: those of the address listened on."""

    def __init__(
        self,
        node: str,
        incarnation: str,
        cluster: str,
        listen: str,
        address: str,
        log: Log,
        listener: Listener,
        chosen: tuple[str, ...] = (),
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._cluster = cluster
        self._listen = listen
        self._address = address
        self._log = log
        self._listener = listener
        self._found: dict[str, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._chosen = chosen
        self._zeroconf: AsyncZeroconf | None = None
        self._info: AsyncServiceInfo | None = None
        self._current: Plan | None = None
        self._interfaces: list[interfaces.Interface] = []
        self._unseen: set[str] = set()
        self._said = ""

    def start(self) -> None:
        """Announces this node and looks for others. Where the network does not let it, says so in the log: links with
        configured peers do not need it."""
        self._spawn(self._run())

    async def _run(self) -> None:
        changes = interfaces.Changes()
        try:
            announced = 0.0
            while True:
                plan = self._plan()
                now = asyncio.get_running_loop().time()
                if plan != self._current:
                    await self._open(plan)
                    announced = now
                elif now - announced >= ANNOUNCE:
                    await self._announce()
                    announced = now
                await changes.wait(ANNOUNCE if changes.told else POLL)
                await asyncio.sleep(SETTLE)
        finally:
            changes.close()

    def _plan(self) -> Plan:
        """What the interfaces call for at present."""
        try:
            every = interfaces.every()
            plan = interfaces.plan(every, numeric(split_address(self._listen)[0]), self._chosen)
            if self._address != self._listen:
                plan = replace(plan, announced=tuple(numeric(split_address(self._address)[0])))
        except (OSError, ValueError) as error:
            self._say("discovery is off: the addresses to announce cannot be found out", error)
            return Plan()
        self._interfaces = every
        return plan

    async def _open(self, plan: Plan) -> None:
        """Begins anew, on the interfaces that are there now."""
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        await self._shut()
        self._current = plan
        if not plan.ipv4 and not plan.ipv6:
            self._say("discovery waits", f"no interface {' or '.join(self._chosen) or self._listen} is there")
            return
        places: list[str | int] = [address for _, address in plan.ipv4]
        places += [index for index, _ in plan.ipv6]
        try:
            self._zeroconf = AsyncZeroconf(interfaces=places)
            # Those that are not found again are not there any more.
            self._spawn(self._forget(set(self._found)))
            AsyncServiceBrowser(self._zeroconf.zeroconf, [SERVICE], handlers=[self._on_change])
            self._info = self._own(plan)
            await self._zeroconf.async_register_service(self._info)
        except (OSError, Error, ValueError, RuntimeError) as error:
            # An interface has just gone, or takes no multicast.
            self._current = None
            self._say("discovery is off: no multicast on the interfaces listened on", error)
            return
        self._said = ""
        self._log.debug("discovery", interfaces=plan.words(), announced=",".join(plan.announced))

    async def _announce(self) -> None:
        from zeroconf import Error

        if self._zeroconf is None or self._info is None:
            return
        try:
            await self._zeroconf.async_update_service(self._info)
        except (OSError, Error) as error:
            self._say("this node is not announced", error)

    def _own(self, plan: Plan) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        # Readable for who browses, and unique through the incarnation. At most 63 bytes.
        label = f"{re.sub(r'[^A-Za-z0-9-]', '-', self._node)[:40]}-{self._incarnation[:8]}"
        return AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            parsed_addresses=list(plan.announced[:ADDRESSES]),
            port=split_address(self._address)[1],
            properties={
                "node": self._node,
                "incarnation": self._incarnation,
                "cluster": self._cluster,
                "version": __version__,
            },
            server=f"ipcd-{self._incarnation}.local.",
            host_ttl=TTL,
            other_ttl=TTL,
        )

    async def _forget(self, names: set[str]) -> None:
        self._unseen = names
        await asyncio.sleep(FORGET)
        for name in names:
            for address in self._found.pop(name, ()):
                self._listener.lost(address, ZEROCONF)

    async def close(self) -> None:
        """Takes the announcement back, and is silent from then on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._shut()

    async def _shut(self) -> None:
        zeroconf, self._zeroconf, self._info = self._zeroconf, None, None
        if zeroconf is None:
            return
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(GOODBYE):
                await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()

    def _say(self, event: str, reason: object) -> None:
        """Once, until it is something else."""
        if self._said != f"{event}: {reason!r}":
            self._said = f"{event}: {reason!r}"
            self._log.warning(event, reason=reason)

    # -- others -----------------------------------------------------------------------------------

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            for address in self._found.pop(name, ()):
                self._listener.lost(address, ZEROCONF)
        elif len(self._tasks) < limits.ADDRESSES:
            self._spawn(self._look_up(zeroconf, service_type, name))

    async def _look_up(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceInfo

        async with self._lookups:
            try:
                info = AsyncServiceInfo(service_type, name)
                if not await info.async_request(zeroconf, ANSWER * 1000):
                    return
            except (Error, OSError) as error:
                self._log.debug("a record cannot be looked up", name=name, reason=error)
                return
        texts = {key: value or "" for key, value in info.decoded_properties.items()}
        node, incarnation = texts.get("node", ""), texts.get("incarnation", "")
        if texts.get("cluster") != self._cluster or incarnation == self._incarnation or not info.port:
            return
        try:
            limits.check_name("node", node)
            limits.check_name("incarnation", incarnation)
            limits.check("announced nodes", len(self._found) + (name not in self._found), limits.NODES)
        except IpcdError as error:
            self._log.warning("an announcement is ignored", name=name, reason=error)
            return
        hosts = interfaces.nearest(info.parsed_scoped_addresses()[:ADDRESSES], self._interfaces)
        addresses = [join_address(host, info.port) for host in hosts]
        for address in set(self._found.get(name, ())) - set(addresses):
            self._listener.lost(address, ZEROCONF)
        self._found[name] = addresses
        self._unseen.discard(name)
        for address in addresses:
            self._listener.found(address, ZEROCONF, node, incarnation)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("discovery failed", reason=repr(task.exception()))


def numeric(host: str) -> list[str]:
    """The addresses that a host stands for.

    Raises:
        OSError: none.
    """
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
