"""This process's connection with its daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from ipcd_client.errors import ChannelClosed, NoDaemon
from ipcd_client.node import attach


def test_nobody_attaches_for_channels_that_are_closed(tmp_path: Path) -> None:
    attachment = attach.shared(str(tmp_path / "none.sock"))
    with pytest.raises(NoDaemon):
        attachment.connection()
    attachment.release()
    with pytest.raises(ChannelClosed):
        attachment.connection()
