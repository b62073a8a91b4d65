from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ipcd_client.certs import files
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "lab")


@pytest.fixture
def identity(authority: Authority, tmp_path: Path) -> Callable[..., Identity]:
    """Writes a node's identity file, and loads it."""

    def make(node: str, days: int = 365) -> Identity:
        path = tmp_path / f"{node}.pem"
        files.write(path, authority.issue(node, days).content, files.PRIVATE, force=True)
        return Identity.load(str(path))

    return make
