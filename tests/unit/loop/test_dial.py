"""Connecting to a name: all that it stands for is tried."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from ipcd_client.errors import ConfigError, WireError, WireTimeout
from ipcd_client.loop import dial


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Nobody listens there, and nobody else can come to do so."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def stands_for(monkeypatch: pytest.MonkeyPatch, *places: tuple[str, int]) -> None:
    """What the resolver says of the name `many`."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *arguments: Any, **named: Any) -> list[Any]:
        if host != "many":
            return real(host, port, *arguments, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_second_address_does_where_the_first_does_not(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, closed_port: int
) -> None:
    place = listener.getsockname()
    stands_for(monkeypatch, ("127.0.0.1", closed_port), place)
    sock = asyncio.run(dial.tcp("many:1", 5.0, b"hello"))
    with sock:
        assert sock.getpeername() == place
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


def test_the_error_names_each_address(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    stands_for(monkeypatch, ("127.0.0.1", closed_port), ("127.0.0.2", closed_port))
    with pytest.raises(WireError) as failed:
        asyncio.run(dial.tcp("many:1", 5.0))
    assert not isinstance(failed.value, WireTimeout)
    assert str(failed.value) == (
        f"none of the addresses of many:1 can be reached: cannot connect to 127.0.0.1:{closed_port}: Connection "
        f"refused; cannot connect to 127.0.0.2:{closed_port}: Connection refused"
    )


def test_one_address_is_told_as_it_was_given(closed_port: int) -> None:
    with pytest.raises(WireError, match=f"^cannot connect to 127.0.0.1:{closed_port}: Connection refused$"):
        asyncio.run(dial.tcp(f"127.0.0.1:{closed_port}", 5.0))


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_arguments: Any, **_named: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(WireError, match=r"^cannot look up x+\.example: it is no host name$"):
        asyncio.run(dial.tcp(f"{'x' * 70}.example:1", 5.0))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for function in (dial.resolve("many:1"), dial.tcp("many:1", 5.0)):
        with pytest.raises(WireError, match=r"^cannot look up many: Name or service not known$"):
            asyncio.run(function)


def test_what_a_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for(monkeypatch, ("192.0.2.1", 7), ("192.0.2.2", 7), ("192.0.2.1", 7))
    assert asyncio.run(dial.resolve("many:7")) == ("192.0.2.1:7", "192.0.2.2:7")
    assert asyncio.run(dial.resolve("[::1]:7")) == ("[::1]:7",)


@pytest.mark.parametrize(
    ("address", "numeric"), [("127.0.0.1:1", True), ("[::1]:1", True), ("[fe80::1%lo]:1", True), ("localhost:1", False)]
)
def test_which_addresses_are_numbers(address: str, numeric: bool) -> None:
    assert dial.is_numeric(address) == numeric


def test_what_is_no_address() -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        asyncio.run(dial.tcp("localhost", 1.0))
