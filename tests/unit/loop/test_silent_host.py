"""A peer whose host no longer answers, on a connection that an event loop waits for."""

from __future__ import annotations

import asyncio

import pytest
from ipcd_client.errors import WireClosed
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.testing.wire_factories import TcpFactory
from ipcd_client.testing.wire_tools import LIMIT
from ipcd_client.wire.tcp import TcpWire


def test_it_is_looked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def check(wire: TcpWire) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            wire.shutdown()

    monkeypatch.setattr(TcpWire, "check_every", 0.01)
    monkeypatch.setattr(TcpWire, "check", check)

    async def main() -> None:
        ours, theirs = TcpFactory().pair()
        ended = asyncio.get_running_loop().create_future()
        connection = Connection(ours, Settings(), dialer=True, on_closed=ended.set_result)
        await asyncio.wait_for(ended, LIMIT)
        assert isinstance(connection.error, WireClosed)
        theirs.abort()

    asyncio.run(main())
    assert looks == 3
