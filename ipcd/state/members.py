"""Which nodes there are, where to dial them, and which link with one is kept. Pure: time is an argument.

An address is where a node may be; a link is a connection with one. Two nodes that find each other may both dial: the
link dialed by the node with the smaller incarnation is kept, and both sides know that without asking. Of two links in
the same direction the side that accepted them decides, and the side that dialed follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import limits
from ipcd.state import heartbeat
from ipcd.state.clock import ClockOffset
from ipcd.state.heartbeat import Heartbeat

# Where an address is from.
CONFIGURED: Final = "peer"
ZEROCONF: Final = "zeroconf"
LEARNED: Final = "learned"  # told by another node
REMEMBERED: Final = "remembered"  # from the last run
INBOUND: Final = "inbound"  # it dialed

# Seconds.
RETRY_FIRST: Final = 0.1
RETRY_MOST: Final = 2.0
# How long the node with the greater incarnation leaves the dialing to the other.
COURTESY: Final = 1.0
# Of silence on a link, at the latest.
SUSPECT: Final = heartbeat.SUSPECT_MOST
DEAD: Final = heartbeat.DEAD_MOST
# Failed dials after which an address is given up that is only hearsay: where something answered, and where nothing
# did, which may be a cut that takes long.
GIVE_UP: Final = 20
GIVE_UP_SILENT: Final = 200
# How long who was refused is shown. Whoever still wants in has tried again by then.
REFUSAL_SHOWN: Final = 10.0
_HEARSAY: Final = {LEARNED, REMEMBERED}


class Refused(IpcdError):
    """A link is not wanted; the text says why."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Ourselves(Refused):
    """The other end is this very node."""


class Superfluous(Refused):
    """There is a link with that node already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class NameTaken(Refused):
    """Two nodes have one name."""


@dataclass(eq=False, slots=True)
class Address:
    """One place to dial."""

    address: str
    sources: set[str]
    since: float
    due: float
    node: str = ""  # who was met there, or is said to be
    incarnation: str = ""
    failures: int = 0
    answered: int = 0  # of the failures, those in which something was there
    error: str = ""
    dialing: bool = False
    ourselves: bool = False


@dataclass(eq=False, slots=True)
class Link:
    """A link with a node, as far as this module cares."""

    node: str
    incarnation: str
    version: str
    address: str  # where it can be dialed
    remote: str  # the other end of the connection
    dialed: bool
    since: float
    heard: float
    rtt: float = 0.0
    suspect: bool = False
    source: str = INBOUND
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    clock: ClockOffset = field(default_factory=ClockOffset)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that wanted a link and did not get it."""

    node: str
    incarnation: str
    address: str
    at: float
    since: float
    error: str


@dataclass(slots=True)
class Members:
    """What one node knows of the others."""

    node: str
    incarnation: str
    cluster: str
    address: str = ""  # where this node tells others to dial it
    addresses: dict[str, Address] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    # Addresses of configured peers: as they are written, and what names stood for last.
    _configured: tuple[str, ...] = ()
    _resolved: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _unresolved: dict[str, tuple[str, float]] = field(default_factory=dict)

    # -- addresses --------------------------------------------------------------------------------

    def found(self, address: str, source: str, now: float, node: str = "", incarnation: str = "") -> bool:
        """A node may be at `address`. False if that was known.

        Raises:
            LimitReached: too many addresses.
        """
        entry = self.addresses.get(address)
        if entry is not None:
            new = source not in entry.sources or incarnation not in {"", entry.incarnation}
            entry.sources.add(source)
            if incarnation and incarnation != entry.incarnation:
                entry.node, entry.incarnation, entry.ourselves = node, incarnation, False
                entry.failures = entry.answered = 0
                entry.due = min(entry.due, now + self._courtesy(incarnation))
            return new
        if incarnation == self.incarnation:
            return False
        # What is hearsay never takes the place of what somebody has configured.
        most = limits.ADDRESSES_HEARD if source in _HEARSAY else limits.ADDRESSES
        limits.check("addresses of nodes", len(self.addresses) + 1, most)
        due = now + self._courtesy(incarnation)
        self.addresses[address] = Address(address, {source}, now, due, node, incarnation)
        return True

    def _courtesy(self, incarnation: str) -> float:
        return COURTESY if incarnation and incarnation < self.incarnation else 0.0

    def lost(self, address: str, source: str) -> None:
        """That source knows the address no more."""
        entry = self.addresses.get(address)
        if entry is not None:
            entry.sources.discard(source)
            if not entry.sources:
                del self.addresses[address]

    def configured(self, addresses: tuple[str, ...], now: float, names: tuple[str, ...] = ()) -> None:
        """These are the configured ones now, and no others. `names`: NAME:PORT whose addresses `resolved` will tell."""
        self._configured = addresses
        self._resolved = {name: self._resolved.get(name, ()) for name in names}
        self._unresolved = {name: why for name, why in self._unresolved.items() if name in names}
        self._take_configured(now)

    def resolved(self, name: str, addresses: tuple[str, ...], now: float) -> bool:
        """A configured name stands for these addresses, all of which are tried. True if one of them leads to a node
        that there is a link with: the name has done its work."""
        if name not in self._resolved:
            return True
        self._unresolved.pop(name, None)
        self._resolved[name] = addresses
        self._take_configured(now)
        return any(self.is_linked(self.addresses[address]) for address in addresses)

    def unresolved(self, name: str, error: str, now: float) -> bool:
        """A configured name stands for nothing. True if that is news. What it stood for last is still tried."""
        if name not in self._resolved:
            return False
        old, since = self._unresolved.get(name, ("", now))
        self._unresolved[name] = (error, since)
        return error != old

    def _take_configured(self, now: float) -> None:
        wanted = dict.fromkeys([*self._configured, *(one for found in self._resolved.values() for one in found)])
        for address in [a for a, entry in self.addresses.items() if CONFIGURED in entry.sources]:
            if address not in wanted:
                self.lost(address, CONFIGURED)
        for address in wanted:
            self.found(address, CONFIGURED, now)

    def next_due(self, now: float) -> tuple[Address | None, float | None]:
        """The address to dial now, if there is one; else the time when there will be, None for never."""
        soonest: float | None = None
        # One address of a node at a time: where that leads to a link, the others are not needed.
        busy = {entry.incarnation for entry in self.addresses.values() if entry.dialing and entry.incarnation}
        for entry in self.addresses.values():
            if entry.dialing or entry.ourselves or entry.incarnation in busy or self.is_linked(entry):
                continue
            if entry.due <= now:
                return entry, None
            soonest = entry.due if soonest is None else min(soonest, entry.due)
        return None, soonest

    def is_linked(self, entry: Address) -> bool:
        """There is a link with the node that was met at this address."""
        link = self.links.get(entry.node)
        return link is not None and entry.incarnation in {"", link.incarnation}

    def failed(self, entry: Address, error: str, now: float, jitter: float, *, silent: bool = False) -> bool:
        """A dial failed. `jitter`: random, from 0 to 1. `silent`: nothing answered. True if the error is news."""
        news = error != entry.error
        if news:
            entry.since = now
        entry.error = error
        entry.failures += 1
        entry.answered += not silent
        # At most RETRY_MOST, so that a cut that has healed is noticed within it and a dial's own time.
        entry.due = now + min(RETRY_MOST, RETRY_FIRST * 2 ** min(entry.failures - 1, 16)) * (0.5 + jitter / 2)
        if (entry.answered >= GIVE_UP or entry.failures >= GIVE_UP_SILENT) and entry.sources <= _HEARSAY:
            self.addresses.pop(entry.address, None)
        return news

    def met(self, entry: Address, node: str, incarnation: str) -> None:
        """The node at an address said who it is."""
        entry.node, entry.incarnation = node, incarnation
        entry.ourselves = incarnation == self.incarnation

    # -- links ------------------------------------------------------------------------------------

    def judge(self, hello: peer_pb2.PeerHello, remote: str, dialed: bool, now: float) -> Link | None:
        """Whether a link with whoever says this hello is kept: returns the link that it replaces, None if there is
        none. `remote`: HOST:PORT of the other end. `dialed`: by us.

        Raises:
            Refused: it is not kept.
        """
        if hello.incarnation == self.incarnation:
            raise Ourselves(f"{remote} is this node itself")
        limits.check_name("node", hello.node)
        limits.check_name("incarnation", hello.incarnation)
        limits.check_name("version", hello.version, empty=True)
        limits.check_name("address", hello.address, empty=True)
        if hello.cluster != self.cluster:
            raise Refused(f"{remote} belongs to cluster {hello.cluster[: limits.NAME]!r}, not to {self.cluster!r}")
        if hello.node == self.node:
            raise NameTaken(
                f"two nodes are named {self.node!r}: incarnation {self.incarnation} at {self.address or 'this end'}, "
                f"and {hello.incarnation} at {hello.address or remote}"
            )
        old = self.links.get(hello.node)
        if old is None:
            limits.check("nodes", len(self.links) + 1, limits.NODES)
            if not dialed:
                host = remote.rpartition(":")[0]
                count = sum(link.remote.rpartition(":")[0] == host for link in self.links.values())
                limits.check("nodes of one host", count + 1, limits.NODES_PER_HOST)
            return None
        fresh = now - old.heard < old.heartbeat.suspect_after
        if old.incarnation != hello.incarnation:
            if fresh:
                raise NameTaken(
                    f"two nodes are named {hello.node!r}: incarnation {old.incarnation} at "
                    f"{old.address or old.remote}, and {hello.incarnation} at {hello.address or remote}"
                )
            return old
        if old.dialed == dialed:
            if not dialed and fresh:
                raise Superfluous(f"there is a link with node {hello.node} already")
            return old
        ours_wins = self.incarnation < hello.incarnation
        if dialed != ours_wins and fresh:
            raise Superfluous(f"there is a link with node {hello.node} already, dialed from the other end")
        return old

    def linked(self, link: Link) -> None:
        """A link is up; it replaces any other with that node."""
        self.links[link.node] = link
        for entry in self.addresses.values():
            if entry.node == link.node and self.is_linked(entry):
                entry.failures, entry.answered, entry.error = 0, 0, ""
        for where, refusal in list(self.refusals.items()):
            if refusal.incarnation == link.incarnation:
                del self.refusals[where]

    def refused(self, hello: peer_pb2.PeerHello, remote: str, error: str, now: float) -> None:
        """A node that dialed was refused by `judge`."""
        address = hello.address or remote
        old = self.refusals.pop(address, None)
        if len(self.refusals) >= limits.REFUSALS:
            self.refusals.pop(next(iter(self.refusals)))
        since = old.since if old is not None and old.error == error else now
        self.refusals[address] = Refusal(hello.node, hello.incarnation, address, now, since, error)

    def unlinked(self, link: Link, now: float) -> bool:
        """A link is gone. False if it had been replaced: the node is still there."""
        if self.links.get(link.node) is not link:
            return False
        del self.links[link.node]
        for entry in self.addresses.values():
            if entry.node == link.node:
                entry.since = now
                entry.due = min(entry.due, now) + RETRY_FIRST
        return True

    # -- questions --------------------------------------------------------------------------------

    def known(self) -> list[peer_pb2.KnownNode]:
        """What to tell a node of the others."""
        return [known(link) for link in self.links.values() if link.address]

    def infos(self, now: float) -> list[node_pb2.NodeInfo]:
        """Nodes linked, by name, and then the addresses where one may be."""
        states = node_pb2.NodeInfo
        infos = []
        for _, link in sorted(self.links.items()):
            offset, error = link.clock.best or (None, 0.0)
            info = states(
                node=link.node,
                incarnation=link.incarnation,
                state=states.STATE_SUSPECT if link.suspect else states.STATE_LINKED,
                address=link.address or link.remote,
                version=link.version,
                rtt=link.rtt,
                age=now - link.since,
                dialed=link.dialed,
                source=link.source,
                clock_offset=offset,
                clock_error=error,
            )
            infos.append(info)
        spare = self._spare()
        infos += [
            states(
                node=entry.node,
                incarnation=entry.incarnation,
                state=states.STATE_CONNECTING,
                address=entry.address,
                age=now - entry.since,
                error=entry.error,
                source=_source(entry),
            )
            for entry in self.addresses.values()
            if not entry.ourselves and not self.is_linked(entry) and entry.address not in spare
        ]
        infos += [
            states(
                node=refusal.node,
                incarnation=refusal.incarnation,
                state=states.STATE_CONNECTING,
                address=refusal.address,
                age=now - refusal.since,
                error=refusal.error,
                source=INBOUND,
            )
            for refusal in self.refusals.values()
            if now - refusal.at < REFUSAL_SHOWN and refusal.address not in self.addresses
        ]
        return infos + [
            states(state=states.STATE_CONNECTING, address=name, age=now - since, error=error, source=CONFIGURED)
            for name, (error, since) in self._unresolved.items()
        ]

    def _spare(self) -> set[str]:
        """Addresses that nobody misses: another one of the same configured name leads to a node."""
        return {
            address
            for addresses in self._resolved.values()
            if any(entry.ourselves or self.is_linked(entry) for entry in map(self.addresses.get, addresses) if entry)
            for address in addresses
            if (entry := self.addresses.get(address)) is not None and entry.sources == {CONFIGURED}
        }


def known(link: Link) -> peer_pb2.KnownNode:
    """What to tell others of the node at the other end of a link."""
    return peer_pb2.KnownNode(node=link.node, incarnation=link.incarnation, address=link.address)


def _source(entry: Address) -> str:
    for source in (CONFIGURED, ZEROCONF, LEARNED, REMEMBERED):
        if source in entry.sources:
            return source
    return ""
