"""`python -m ipcd_client.cli` is `ipcctl`."""

from __future__ import annotations

from ipcd_client.cli.program import main

main()
