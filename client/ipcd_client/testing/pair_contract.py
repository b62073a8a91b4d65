"""What the parts of the wires' contract stand on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from ipcd_client.testing.wire_factories import WireFactory
from ipcd_client.testing.wire_tools import ready
from ipcd_client.wire.base import Wire

Ends = tuple[Wire, Wire]


class PairContract:
    """Tests of two ends, which `ends` gives."""

    factory: ClassVar[WireFactory]

    @pytest.fixture
    def ends(self) -> Iterator[Ends]:
        """Two ends that take large frames."""
        with ready(self.factory.pair()) as ends:
            yield ends
