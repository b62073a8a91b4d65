"""The roads between nodes: in front of each node's TCP port a proxy that can hold, delay, cut and change what passes.

Links and calls of other nodes go through it, because a node advertises it as its own address. It needs no rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ipcd_client.frame import codec, preamble

LONG: Final = 20.0  # seconds
PIECE: Final = 1 << 16
# Where the preamble has its kind.
KIND_AT: Final = 5
# The only change that is made to a byte. Text of ASCII is none any more then, so that no other address or name comes of
# it.
MASK: Final = 0x80

R = TypeVar("R")


@dataclass
class Weather:
    """What happens to what passes, on all roads. `flip_links`, `flip_calls`: share of the pieces of which a byte is
    changed; on links any, on connections for calls only where a frame's type stands or the top of its length."""

    delay: float = 0.0  # seconds for each piece
    flip_links: float = 0.0
    flip_calls: float = 0.0
    # After so many bytes more, each way, a connection is reset.
    cut_after: int | None = None


class Frames:
    """Where frames begin in a stream that is seen in pieces."""

    def __init__(self, skip: int) -> None:
        self._next = skip  # bytes until the next header
        self._rest = b""  # of a header that was seen in part

    def headers(self, piece: bytes) -> list[int]:
        """Places in the piece at which a header begins that is whole in it."""
        found = []
        data, back = self._rest + piece, len(self._rest)
        at = self._next
        while at + codec.HEADER_SIZE <= len(data):
            if at >= back:
                found.append(at - back)
            at += codec.HEADER_SIZE + codec.HEADER.unpack_from(data, at)[0]
        self._rest = data[at:]
        self._next = max(0, at - len(data))
        return found


class Passage:
    """One direction of one connection."""

    def __init__(self, roads: Roads, skip: int) -> None:
        self._roads = roads
        self._frames = Frames(skip)
        self.link = False
        self.passed = 0

    def changed(self, piece: bytes) -> bytes:
        """The piece as it goes on."""
        headers = self._frames.headers(piece)
        weather, dice = self._roads.weather, self._roads.dice
        if self.link and dice.random() < weather.flip_links:
            at = dice.randrange(len(piece))
        elif not self.link and headers and dice.random() < weather.flip_calls:
            at = dice.choice(headers) + dice.choice((3, 8))  # the top of the length, or the type
        else:
            return piece
        self._roads.flipped += 1
        return piece[:at] + bytes([piece[at] ^ MASK]) + piece[at + 1 :]


class Roads:
    """All proxies, on a loop of their own thread. Give it pairs of ports: the proxy's and the node's."""

    def __init__(self, ports: dict[int, int], seed: str) -> None:
        self.weather = Weather()
        self.dice = random.Random(seed)
        self.flipped = 0  # bytes
        self.dropped = 0  # connections
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of the two ends of each connection, and the way that leads to the node.
        self._writers: dict[asyncio.StreamWriter, Passage] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="roads")
        self._thread.start()
        self._servers = [self._run(self._serve(port, target)) for port, target in ports.items()]

    # -- from the tests' thread -------------------------------------------------------------------

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told: what is sent waits, and so does who connects."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def go_on(self) -> None:
        """What was held goes on."""
        self._loop.call_soon_threadsafe(self._open.set)

    def reset(self, *, links_alone: bool = False) -> None:
        """Ends every connection, or every link, at once and both ways."""
        self._run(self._reset(links_alone))

    @contextlib.contextmanager
    def under(self, weather: Weather) -> Iterator[None]:
        """That weather for a while."""
        self.weather = weather
        try:
            yield
        finally:
            self.weather = Weather()

    def connections(self) -> int:
        """How many there are, counted once for each of their ends here."""
        return len(self._writers)

    def close(self) -> None:
        """Ends all of it."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG)

    # -- on the loop ------------------------------------------------------------------------------

    async def _serve(self, port: int, target: int) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._connected(reader, writer, target)
            finally:
                self._tasks.discard(task)

        return await asyncio.start_server(accepted, "127.0.0.1", port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        there, here = Passage(self, preamble.SIZE), Passage(self, 0)
        with self._owned(writer, there):
            await self._open.wait()
            try:
                onward, back = await asyncio.open_connection("127.0.0.1", target)
            except OSError:
                return
            with self._owned(back, there):

                def first(piece: bytes) -> None:
                    # It comes in one piece from whoever dials: it is sent at once.
                    there.link = here.link = len(piece) > KIND_AT and piece[KIND_AT] == preamble.PEER

                # Either end that closes ends both: no one here closes one direction alone and reads on.
                ways = [
                    asyncio.ensure_future(self._pass(reader, back, there, first)),
                    asyncio.ensure_future(self._pass(onward, writer, here)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    # What the other direction still has is to arrive, as it would without a proxy.
                    await asyncio.wait(ways, timeout=1.0)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    @contextlib.contextmanager
    def _owned(self, writer: asyncio.StreamWriter, way: Passage) -> Iterator[None]:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers[writer] = way
        try:
            yield
        finally:
            del self._writers[writer]
            writer.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passage: Passage,
        first: Callable[[bytes], None] | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                if first is not None:
                    first(piece)
                    first = None
                if self.weather.delay:
                    await asyncio.sleep(self.weather.delay)
                await self._open.wait()
                piece = passage.changed(piece)
                most = self.weather.cut_after
                if most is None:
                    passage.passed = 0
                else:
                    piece = piece[: most - passage.passed]
                    passage.passed += len(piece)
                writer.write(piece)
                if most is not None and passage.passed >= most:
                    await writer.drain()
                    self._drop(writer)
                    return
                await writer.drain()
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        """Ends one end of a connection as if its machine had gone: the peer hears of a reset."""
        self.dropped += 1
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _reset(self, links_alone: bool) -> None:
        for writer, way in list(self._writers.items()):
            if way.link or not links_alone:
                self._drop(writer)

    async def _close(self) -> None:
        self._open.set()
        for server in self._servers:
            server.close()
        await self._reset(links_alone=False)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
