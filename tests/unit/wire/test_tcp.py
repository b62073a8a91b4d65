"""Addresses, connecting, and noticing that a host is gone."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.errors import ConfigError, WireError, WireLost, WireTimeout
from ipcd_client.testing.wire_factories import TcpFactory
from ipcd_client.testing.wire_tools import LIMIT, Worker
from ipcd_client.wire import tcp


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("host.example:7319", ("host.example", 7319)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert tcp.split_address(address) == parts
    assert tcp.join_address(*parts) == address


@pytest.mark.parametrize(
    "address",
    ["", "host", ":1", "host:", "host:x", "host:-1", "host:65536", "::1:80", "::1", "[::1]", "[]:1", "h:\u0661"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        tcp.split_address(address)


def test_addresses_are_bounded() -> None:
    """Another node tells them: int() would refuse so many digits in its own way, and what is kept has a bound."""
    assert tcp.split_address(f"{'h' * 255}:1") == ("h" * 255, 1)
    for address in (f"h:{'1' * 5000}", "h:000001", f"{'h' * 256}:1", f"{'h' * 5000}:1"):
        with pytest.raises(ConfigError, match="HOST:PORT") as caught:
            tcp.split_address(address)
        assert len(str(caught.value)) < 400


@given(st.text(max_size=12))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = tcp.split_address(text)
    except ConfigError:
        return
    assert host
    assert 0 <= port <= 65535


def test_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = tcp.join_address(*listener.getsockname())
        with tcp.connect(address, LIMIT) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            # It would end connections with peers that are well, and only do not read for a while.
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    with pytest.raises(WireError, match=r"refused"):
        tcp.connect(address, LIMIT)


def test_names_that_are_not_known() -> None:
    with pytest.raises(WireError, match=r"no-such-host\.invalid"):
        tcp.connect("no-such-host.invalid:1", LIMIT)


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "\u00fc" * 70])
def test_names_that_no_host_has(host: str) -> None:
    with pytest.raises(WireError, match="is no host name"):
        tcp.connect(f"{host}:1", LIMIT)


def test_nobody_answers() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = tcp.join_address(*full.getsockname())
        waiting = []
        with pytest.raises(WireTimeout, match=r"within 0\.2 s"):  # noqa: PT012 - each takes one place in the queue
            for _ in range(20):
                waiting.append(tcp.connect(address, 0.2))  # noqa: PERF401
        for sock in waiting:
            sock.close()


class Fading:
    """Stands in for the socket: the kernel has asked the peer `tries` times."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self.tries = {"retransmits": 0, "probes": 0}

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        info = bytearray(self.inner.getsockopt(level, option, size))
        assert len(info) == size
        info[2], info[3] = self.tries["retransmits"], self.tries["probes"]
        return bytes(info)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.mark.parametrize("which", ["retransmits", "probes"])
def test_a_host_that_does_not_answer(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire, other = TcpFactory().pair()
    assert isinstance(wire, tcp.TcpWire)
    monkeypatch.setattr(tcp.TcpWire, "check_every", 0.01)
    fading = Fading(wire._socket)
    monkeypatch.setattr(wire, "_socket", fading)
    with Worker(lambda: wire.poll(None)) as waiting:
        fading.tries[which] = tcp.DEAD_AFTER - 1
        wire.check()
        assert waiting.result is None
        fading.tries[which] = tcp.DEAD_AFTER
    assert waiting.join() is True
    for _ in range(2):
        with pytest.raises(WireLost, match="does not answer"):
            wire.recv()
    wire.abort()
    wire.check()
    other.abort()


def test_a_host_that_does_not_answer_is_found_by_what_waits_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, other = TcpFactory().pair()
    assert isinstance(wire, tcp.TcpWire)
    while wire.send([bytes(1 << 20)]):
        pass

    class Failing:
        def sendmsg(self, _: object) -> int:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with monkeypatch.context() as patch:
        patch.setattr(wire, "_socket", Failing())
        with pytest.raises(WireLost, match="does not answer"):
            wire.flush()
    wire.abort()
    other.abort()


def test_a_wait_ends_on_time_though_it_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp.TcpWire, "check_every", 0.01)
    wire, other = TcpFactory().pair()
    assert not wire.poll(0.035)
    wire.abort()
    other.abort()
