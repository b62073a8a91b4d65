"""Nodes, servers and channels as programs meet them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipcd_client
import pytest
from sdk.processes import Processes, processes


@pytest.fixture
def world() -> Iterator[Processes]:
    """Processes of this test, with their sockets in a folder whose path is short enough for them."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, processes(Path(folder)) as all_of_them:
        yield all_of_them


@pytest.fixture
def channel_to(world: Processes) -> Iterator[Callable[..., ipcd_client.Channel]]:
    """Channels by node, closed after the test."""
    channels: list[ipcd_client.Channel] = []

    def make(node: str, target: str = "ipcd:", **arguments: Any) -> ipcd_client.Channel:
        channels.append(ipcd_client.channel(target, node=world.socket(node), **arguments))
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()
