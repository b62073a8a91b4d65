"""What anybody on the network may announce, as discovery takes it up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final, cast
from unittest import mock

import zeroconf.asyncio
from fuzz.registry import target
from hypothesis import strategies as st
from ipcd_client.wire.tcp import split_address
from zeroconf._cache import DNSCache
from zeroconf._dns import DNSAddress, DNSPointer, DNSService, DNSText
from zeroconf._exceptions import IncomingDecodeError, NamePartTooLongException
from zeroconf._protocol.incoming import DNSIncoming
from zeroconf._protocol.outgoing import DNSOutgoing

from ipcd import limits
from ipcd.discovery.zeroconf import ADDRESSES, SERVICE, Discovery
from ipcd.log import Log

_NAME: Final = f"b-1.{SERVICE}"
_HOST: Final = "ipcd-b.local."


def _text(entries: dict[bytes, bytes]) -> bytes:
    parts = [key + b"=" + value for key, value in entries.items()]
    return b"".join(bytes((min(255, len(part)),)) + part[:255] for part in parts)


def _packet(text: bytes, addresses: list[bytes], port: int, name: str) -> bytes:
    out = DNSOutgoing(0x8400)
    records: list[Any] = [
        DNSPointer(SERVICE, 12, 1, 75, name),
        DNSService(name, 33, 1, 75, 0, 0, port, _HOST),
        DNSText(name, 16, 1, 75, text),
        *(DNSAddress(_HOST, 1 if len(address) == 4 else 28, 1, 75, address) for address in addresses),
    ]
    for record in records:
        out.add_answer_at_time(record, 0)
    return b"".join(out.packets()[:1])


_entries = st.dictionaries(
    st.sampled_from([b"node", b"incarnation", b"cluster", b"version", b"\xff", b""]),
    st.one_of(st.sampled_from([b"a", b"b", b"c", b"", b"x" * 250, b"\xff", b"a/b", b"1"]), st.binary(max_size=8)),
    max_size=5,
)
_good = {b"node": b"b", b"incarnation": b"b", b"cluster": b"c"}
_packets = st.builds(
    _packet,
    st.one_of(_entries.map(lambda one: _text(_good | one)), _entries.map(_text), st.binary(max_size=40)),
    st.lists(
        st.one_of(
            st.binary(min_size=4, max_size=4),
            st.binary(min_size=16, max_size=16),
            st.just(b"\xfe\x80" + bytes(13) + b"\1"),
        ),
        max_size=10,
    ),
    st.integers(0, 65535),
    st.sampled_from([_NAME, _NAME, f"x y.{SERVICE}", f"{'n' * 60}.{SERVICE}"]),
)


class _Listener:
    def __init__(self) -> None:
        self.said: list[object] = []

    def found(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        assert len(node) <= limits.NAME
        assert len(incarnation) <= limits.NAME
        split_address(address)
        self.said.append((address, node, incarnation))

    def lost(self, address: str, source: str) -> None:
        self.said.append(("lost", address))


class _Cached:
    """In the place of a Zeroconf: it knows what the packets have said."""

    def __init__(self) -> None:
        self.cache = DNSCache()


class _Info(zeroconf.asyncio.AsyncServiceInfo):
    async def async_request(self, zc: Any, *_arguments: Any, **_options: Any) -> bool:
        return bool(self.load_from_cache(zc))


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    with mock.patch.object(zeroconf.asyncio, "AsyncServiceInfo", _Info):
        yield


_loop = asyncio.new_event_loop()


@target(
    "announcement",
    _packets,
    words=(
        b"\x0bnode=b",
        b"\x06node=b",
        b"\x0dincarnation=b",
        b"\x09cluster=c",
        b"\xc0\x0c",
        b"\x00\x21\x00\x01",
        b"\x00\x10\x80\x01",
    ),
    largest=1400,
)
def _announcement(data: bytes) -> object:
    """A packet of multicast DNS."""
    try:
        packet = DNSIncoming(data)
        records = packet.answers()
    except (IncomingDecodeError, NamePartTooLongException):
        return "does not parse"
    if not packet.valid:
        return "not valid"
    listener = _Listener()
    discovery = Discovery("a", "a-incarnation", "c", "0.0.0.0:7", "10.0.0.1:7", Log("a"), listener)
    cached = _Cached()
    cached.cache.async_add_records(records)
    names = {record.alias for record in records if isinstance(record, DNSPointer)} | {_NAME}

    async def look_up() -> None:
        for name in sorted(names)[:3]:
            # As a browser does: only what is below the service's name is told.
            if name.lower().endswith(f".{SERVICE}"):
                await discovery._look_up(cast("Any", cached), SERVICE, name)

    with _offline():
        _loop.run_until_complete(look_up())
    assert all(len(found) <= ADDRESSES for found in discovery._found.values())
    return listener.said, sorted(discovery._found)
