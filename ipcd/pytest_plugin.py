"""The pytest fixture `ipcd_node`. Found by pytest through the entry point, so it costs next to nothing to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ipcd.embed import Embedded


@pytest.fixture
def ipcd_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedded]:
    """A private node for this test: channels and servers made in it, and in its child processes, use it."""
    from ipcd.embed import embedded

    with embedded() as node:
        monkeypatch.setenv("IPCD_SOCKET", node.socket)
        yield node
