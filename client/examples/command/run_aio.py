"""The same on an event loop: several runs at a time."""

import asyncio

import ipcd_client.aio


async def main() -> None:
    async with ipcd_client.aio.command("lines") as lines:
        runs = [lines.run(input=b"line\n" * count, wait=None) for count in (1, 10, 100)]
        print(*[done.stdout.decode().strip() for done in await asyncio.gather(*runs)])


asyncio.run(main())
