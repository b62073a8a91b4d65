"""The process that starts programs, where it does not run."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from ipcd_client.primitives import wardens
from ipcd_client.primitives.errors import CannotStart
from ipcd_client.primitives.wardens import Warden

LONG = 10.0  # seconds: far more than anything here takes


def test_who_waits_for_room_to_send_learns_that_it_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wardens, "_PATIENCE", 0.0)

    async def main() -> None:
        warden = Warden()
        warden.start()
        assert warden._process is not None
        os.kill(warden._process.pid, signal.SIGSTOP)
        senders: list[asyncio.Task[None]] = []
        while warden._room is None:
            senders.append(asyncio.create_task(warden.signal(1, signal.SIGTERM)))
            await asyncio.sleep(0)
        starting = asyncio.create_task(warden.run(["true"], {}, None, (0, 1, 2)))
        await asyncio.sleep(0)
        await warden.close()
        # What waited is not for this one, which nobody would tell of what it starts.
        warden.start()
        async with asyncio.timeout(LONG):
            await asyncio.gather(*senders)
            with pytest.raises(CannotStart):
                await starting
        await warden.close()

    asyncio.run(main())
