from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.daemons import Daemons
from integration.ipcctl.runs import World


@pytest.fixture
def world(cluster: Daemons) -> Iterator[World]:
    """Daemons and servers of this test, ended after it."""
    made = World(cluster)
    try:
        yield made
    finally:
        made.end()
