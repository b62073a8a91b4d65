"""ipcctl, the command line."""

from __future__ import annotations

from ipcd_client.cli.program import main

__all__ = ["main"]
