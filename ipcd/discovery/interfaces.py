"""Which interfaces discovery speaks on and what it announces there, and word of when that may have changed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# linux/rtnetlink.h
_RTMGRP_LINK: Final = 0x1
_RTMGRP_IPV4_IFADDR: Final = 0x10
_RTMGRP_IPV6_IFADDR: Final = 0x100
_TENTATIVE: Final = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED of linux/if_addr.h

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Interface:
    """One of this host's, with its addresses and their networks."""

    name: str
    index: int
    addresses: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to speak, and what to say."""

    ipv4: tuple[tuple[int, str], ...] = ()  # interface's index, and the address there
    ipv6: tuple[tuple[int, str], ...] = ()  # interface's index and name
    announced: tuple[str, ...] = ()

    def words(self) -> str:
        """For logs."""
        return ",".join([address for _, address in self.ipv4] + [f"{name} (IPv6)" for _, name in self.ipv6])


def every() -> list[Interface]:
    """All interfaces of this host that have addresses, and those that can be used at present."""
    import ifaddr

    tentative = _tentative()
    found = []
    for adapter in ifaddr.get_adapters():
        addresses = [
            ipaddress.ip_interface(f"{ip.ip if isinstance(ip.ip, str) else ip.ip[0]}/{ip.network_prefix}")
            for ip in adapter.ips
        ]
        usable = tuple(address for address in addresses if (adapter.name, address.ip) not in tentative)
        found.append(Interface(adapter.name, adapter.index or 0, usable))
    return found


def _tentative() -> set[tuple[str, IPAddress]]:
    """Interfaces and addresses of IPv6 that somebody else may turn out to have (RFC 4862, 5.4): nobody can bind to them
    yet. When that is over, the kernel tells."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()  # there is no IPv6
    rows = [line.split() for line in lines]
    return {(row[5], ipaddress.IPv6Address(int(row[0], 16))) for row in rows if int(row[4], 16) & _TENTATIVE}


def plan(interfaces: Sequence[Interface], listen: Sequence[str], chosen: Sequence[str] = ()) -> Plan:
    """What a node does that listens on the addresses `listen`. `chosen`: interfaces, by name or address, on which it
    is to speak; empty: on those that it can be reached on."""
    listened = [_address(host) for host in listen]
    # On Linux a listener on :: takes IPv4 as well.
    wildcards = {address.version for address in listened if address.is_unspecified}
    versions = {4, 6} if 6 in wildcards else wildcards or {address.version for address in listened}
    usable: list[tuple[Interface, list[IPAddress]]] = []
    for interface in interfaces:
        mine = [one.ip for one in interface.addresses if one.version in versions]
        if chosen:
            if interface.name not in chosen:
                mine = [address for address in mine if str(address) in chosen]
        elif not wildcards:
            mine = [address for address in mine if address in listened]
        elif not any(_is_routed(address) for address in mine):
            continue  # of a container's cable, say; whoever wants it names it
        if mine:
            usable.append((interface, mine))
    if wildcards:
        announced = _outside([address for _, mine in usable for address in _told(mine)])
    else:
        announced = listened
    return Plan(
        ipv4=tuple((one.index, str(address)) for one, mine in usable for address in mine if address.version == 4),
        ipv6=tuple((one.index, one.name) for one, mine in usable if any(_takes_multicast(address) for address in mine)),
        announced=tuple(dict.fromkeys(map(str, announced))),
    )


def nearest(addresses: Iterable[str], interfaces: Sequence[Interface]) -> list[str]:
    """The addresses, first those in a network of this host: no route is needed to them."""
    networks = [one.network for interface in interfaces for one in interface.addresses if not one.ip.is_link_local]
    return sorted(addresses, key=lambda address: not any(_address(address) in network for network in networks))


def _address(host: str) -> IPAddress:
    return ipaddress.ip_address(host.partition("%")[0])


def _is_routed(address: IPAddress) -> bool:
    return address.version == 4 or not address.is_link_local


def _takes_multicast(address: IPAddress) -> bool:
    # Over loopback there is no way to ff02::fb unless somebody makes one, and IPv4 does as well there.
    return address.version == 6 and not address.is_loopback


def _told(addresses: list[IPAddress]) -> list[IPAddress]:
    """Of one interface. A link-local address takes a scope to be dialed, so it is told for want of a better one."""
    return [address for address in addresses if not address.is_link_local] or addresses


def _outside(addresses: list[IPAddress]) -> list[IPAddress]:
    return [address for address in addresses if not address.is_loopback] or addresses


class Changes:
    """Word from the kernel that interfaces or addresses have changed. Where it gives none, `told` is false."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            self.close()
        else:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    @property
    def told(self) -> bool:
        """The kernel gives word."""
        return self._socket is not None

    async def wait(self, timeout: float) -> None:
        """Until something has changed, for at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        """Gives no word any more."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _on_readable(self) -> None:
        assert self._socket is not None
        self._event.set()
        # What they say does not matter, and neither does that some were lost (ENOBUFS).
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 16):
                pass
