from __future__ import annotations

from collections.abc import Iterator

import pytest
from ipcd_client.testing.shm_hand import Hand, wire_and_hand
from ipcd_client.wire.shm import ShmWire

Ends = tuple[ShmWire, Hand]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A wire, and its peer by hand."""
    wire, hand = wire_and_hand()
    yield wire, hand
    wire.abort()
    hand.close()
