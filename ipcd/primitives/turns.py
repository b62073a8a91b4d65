"""Long work on the daemon's loop, of which others do not wait for the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator


async def through(pieces: Iterator[None]) -> None:
    """Does it piece by piece, and lets all others who can go on do so in between."""
    for _ in pieces:
        await asyncio.sleep(0)
