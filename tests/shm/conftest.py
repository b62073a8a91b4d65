from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ipcd_client.testing.shm_hand import Ends, wire_and_hand
from sdk.processes import processes
from shm.world import World


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A wire, and its peer by hand."""
    wire, hand = wire_and_hand()
    yield wire, hand
    wire.abort()
    hand.close()


@pytest.fixture
def world() -> Iterator[World]:
    """A daemon that runs."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, processes(Path(folder)) as daemons:
        daemon = daemons.daemon("a")
        with contextlib.ExitStack() as stack:
            yield World(daemons, daemon, stack)
