"""Finds the other nodes, and lets them find this one, with multicast DNS (RFC 6762, 6763) as `_ipcd._tcp.local.`

It only finds: who is alive, and who serves what, is the links' business. It speaks on the interfaces of the address
that the node listens on and on no other: nobody beyond them could connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from ipcd_client import __version__
from ipcd_client.errors import IpcdError
from ipcd_client.wire.tcp import join_address, split_address

from ipcd import limits
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
ADDRESSES: Final = 4


class Listener(Protocol):
    """Who wants to know."""

    def found(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        """A node is said to be at HOST:PORT."""

    def lost(self, address: str, source: str) -> None:
        """It is not there any more."""


class Discovery:
    """`start`, then `close`. `address`: HOST:PORT that other nodes are told."""

    def __init__(
        self, node: str, incarnation: str, cluster: str, listen: str, address: str, log: Log, listener: Listener
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
        self._zeroconf: AsyncZeroconf | None = None

    def start(self) -> None:
        """Announces this node and looks for others. Where the network does not let it, says so in the log: links with
        configured peers do not need it."""
        self._spawn(self._run())

    async def _run(self) -> None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        host, _ = split_address(self._listen)
        try:
            interfaces = interfaces_of(host)
            zeroconf = self._zeroconf = AsyncZeroconf(interfaces=interfaces)
        except (OSError, Error) as error:
            self._log.warning("discovery is off: no multicast on the interfaces listened on", reason=error)
            return
        self._log.debug("discovery", interfaces=",".join(interfaces))
        AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE], handlers=[self._on_change])
        try:
            info = self._own()
            await zeroconf.async_register_service(info)
            while True:
                await asyncio.sleep(ANNOUNCE)
                await zeroconf.async_update_service(info)
        except (OSError, Error, ValueError) as error:
            self._log.warning("this node is not announced", reason=repr(error))

    def _own(self) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        host, port = split_address(self._address)
        # Readable for who browses, and unique through the incarnation. At most 63 bytes.
        label = f"{re.sub(r'[^A-Za-z0-9-]', '-', self._node)[:40]}-{self._incarnation[:8]}"
        return AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            parsed_addresses=announced(host),
            port=port,
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

    async def close(self) -> None:
        """Takes the announcement back, and is silent from then on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._zeroconf is None:
            return
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(GOODBYE):
                await self._zeroconf.async_unregister_all_services()
        await self._zeroconf.async_close()

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
        addresses = [join_address(host, info.port) for host in info.parsed_scoped_addresses()[:ADDRESSES]]
        for address in set(self._found.get(name, ())) - set(addresses):
            self._listener.lost(address, ZEROCONF)
        self._found[name] = addresses
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


def interfaces_of(host: str) -> list[str]:
    """The addresses of the interfaces on which a listener at `host` can be reached."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    if not any(ipaddress.ip_address(address.partition("%")[0]).is_unspecified for address in found):
        return sorted(found)
    import ifaddr

    every = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return sorted({ip for ip in every if isinstance(ip, str)})


def announced(host: str) -> list[str]:
    """The addresses at which others can dial `host`."""
    addresses = interfaces_of(host)
    if len(addresses) > 1:
        outside = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
        return outside or addresses
    return addresses
