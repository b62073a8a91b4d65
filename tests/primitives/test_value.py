"""Values, over all roads and on both faces."""

from __future__ import annotations

import ipcd_client
from primitives.roads import Road

LARGE = bytes(range(256)) * 4096 * 3


def test_first(road: Road) -> None:
    with ipcd_client.value(road.name("v"), **road.keywords) as one:
        assert not one.get()
        assert one.set(b"a") == 1
        assert bytes(one.get()) == b"a"
        assert one.set(LARGE) == 2
        snapshot = one.get()
        assert snapshot.version == 2
        assert snapshot.data == LARGE
        assert snapshot.data.readonly
        assert one.compare_and_set(1, b"x") == 0
        assert one.compare_and_set(2, b"5") == 3
        assert one.add(4) == 9
        assert one.delete()
        assert not one.get()
