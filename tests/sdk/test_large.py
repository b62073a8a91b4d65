"""Large messages, at the SDK: what they need is given back when they have stopped."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import ipcd_client
import ipcd_client.aio
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.wire.shm import ShmWire
from sdk.processes import Processes, eventually

LONG = 20.0
SIZE = 3 << 20


def mapped() -> int:
    """Bytes of shared memory that this process has mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        if "memfd:ipcd" in line:
            begin, _, end = line.split()[0].partition("-")
            total += int(end, 16) - int(begin, 16)
    return total


@pytest.mark.parametrize("transport", ["shm", "unix"])
def test_they_pass_and_leave_nothing(world: Processes, transport: str) -> None:
    world.daemon("a")
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("a"))
    server.start()
    with ipcd_client.channel(node=world.socket("a"), transport=transport) as channel:
        call = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
        assert call(b"x", timeout=LONG) == b"x"
        small = mapped()
        payload = bytes(range(256)) * (SIZE // 256)
        for _ in range(5):
            assert call(payload, timeout=LONG) == payload
            assert call(b"between", timeout=LONG) == b"between"
        if transport == "shm":
            wire = channel.route(SERVICE).connection.wire
            assert isinstance(wire, ShmWire)
            assert mapped() > 4 * small

        def quiet() -> bool:
            # What shrinks goes over to the small segment with the next messages.
            assert call(b"small", timeout=LONG) == b"small"
            return mapped() == small and not any(thread.name == "ipcd-tidy" for thread in threading.enumerate())

        eventually(quiet, "the memory is given back, and the thread that saw to it is gone")
        assert call(payload, timeout=LONG) == payload
    server.stop(None)


def test_so_they_do_on_a_loop(world: Processes) -> None:
    world.daemon("a")

    async def main() -> None:
        server = ipcd_client.aio.server(handlers=(Echo(),), node=world.socket("a"))
        await server.start()
        async with ipcd_client.aio.channel(node=world.socket("a"), transport="shm") as channel:
            call = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
            assert await call(b"x") == b"x"
            small = mapped()
            payload = bytes(range(256)) * (SIZE // 256)
            for _ in range(5):
                assert await call(payload) == payload
                assert await call(b"between") == b"between"
            assert mapped() > 4 * small
            while mapped() != small or any(thread.name == "ipcd-tidy" for thread in threading.enumerate()):
                # What shrinks goes over to the small segment with the next messages.
                assert await call(b"small") == b"small"
                await asyncio.sleep(0.02)
            assert await call(payload) == payload
        await server.stop(None)

    async def limited() -> None:
        async with asyncio.timeout(LONG):
            await main()

    asyncio.run(limited())
