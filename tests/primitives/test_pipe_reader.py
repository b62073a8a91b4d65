"""The end of a pipe that reads, and writers that are killed, come late, or do what none of ours does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import ipcd_client.aio
import pytest
from integration import daemons
from integration.daemons import LONG, eventually
from integration.exposing import line_of
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives import pipe_reader
from primitives.roads import Road
from primitives.test_pipe_ends import child


async def until(condition: Callable[[], bool], what: str) -> None:
    """`eventually`, on a loop that has others to do meanwhile."""
    await daemons.until(lambda: asyncio.sleep(0, condition()), what)


DIRECT = pytest.mark.parametrize("road", ["here", "there"], indirect=True)


@DIRECT
@pytest.mark.parametrize(("transport", "size"), [("shm", 16 << 10), ("unix", 128 << 10)])
def test_what_has_come_before_a_writer_was_killed_is_read(road: Road, transport: str, size: int) -> None:
    name = road.name("late")
    with (
        child(road.front, name, "write-then", transport, str(size)) as process,
        ipcd_client.pipe(name, **road.keywords).open_read(wait=LONG, buffering=0) as reader,
    ):
        assert line_of(process) == "open"
        engine: Any = reader._engine  # type: ignore[attr-defined]
        eventually(lambda: len(engine._sources) == 1, "it has called")
        # The reader's process has no turn until the writer is dead: it finds all that came, and the end, at once.
        go = threading.Event()
        (connection,) = [each for each in engine._server._serving._peers if not each.idle]
        connection._loop.call_soon_threadsafe(go.wait)
        try:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            assert line_of(process) == "written"
            process.kill()
            process.wait(LONG)
        finally:
            go.set()
        assert len(reader.read()) == size


@DIRECT
def test_a_writer_that_comes_while_a_reader_closes_has_its_bytes_again(road: Road) -> None:
    name = road.name("closing")

    async def main() -> bytes:
        def pipe() -> Any:
            return ipcd_client.aio.pipe(name, **road.loop_keywords())

        closing = await pipe().open_read(nonblock=True)
        engine: Any = closing._reader
        leave, opened = engine._hold.close, []

        async def left() -> None:
            # The home still has it for open.
            writer = await pipe().open_write(wait=LONG)
            writer.write(b"some")
            await until(lambda: engine.inbox.size == 4 or not writer._writer._gives, "it has called")
            opened.extend([writer, await pipe().open_read(wait=LONG)])
            await leave()

        engine._hold.close = left
        await closing.close()
        writer, reader = opened
        ending = asyncio.create_task(writer.close())
        got: bytes = await reader.read()
        await reader.close()
        await ending
        return got

    assert asyncio.run(main()) == b"some"


class Hostile:
    """Has the key of a reader, and calls it by itself."""

    def __init__(self, reader: Any, channel: Any) -> None:
        self.key = reader._key
        self._stub: Any = pipe_pb2_grpc.PipeReaderStub(channel)

    async def call(self, *, key: bool = True) -> Any:
        """Without the key it says nothing."""
        give = self._stub.Give()
        if key:
            await give.write(pipe_pb2.PipeGive(key=self.key))
        return give


@pytest.mark.parametrize("road", ["here"], indirect=True)
def test_pieces_without_bytes_are_not_kept(road: Road) -> None:
    async def main() -> None:
        pipe: Any = ipcd_client.aio.pipe(road.name("empty"), node=road.home.socket)
        async with pipe.open_read(nonblock=True) as end:
            reader = end._reader
            name = reader._server.registered_as.name
            async with ipcd_client.aio.channel(f"ipcd:///{name}", node=road.home.socket) as channel:
                give = await Hostile(reader, channel).call()
                for _ in range(200):
                    await give.write(pipe_pb2.PipeGive())
                await give.write(pipe_pb2.PipeGive(data=b"end"))
                await until(lambda: reader.inbox.size == 3, "it has come")
                assert len(reader.inbox._pieces) == 1
                give.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("road", ["here"], indirect=True)
def test_a_reader_has_so_many_writers_and_no_more(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_reader, "WRITERS", 2)

    async def main() -> None:
        pipe: Any = ipcd_client.aio.pipe(road.name("many"), node=road.home.socket)
        async with pipe.open_read(nonblock=True) as end:
            reader = end._reader
            dispatcher = reader._server._serving.dispatcher
            name = reader._server.registered_as.name
            async with ipcd_client.aio.channel(f"ipcd:///{name}", node=road.home.socket) as channel:
                hostile = Hostile(reader, channel)
                gives = [await hostile.call() for _ in range(2)]
                for give in gives:
                    assert (await give.read()).window == pipe_reader.WINDOW
                with pytest.raises(grpc.RpcError, match="has 2 writers, which is the most") as caught:
                    await (await hostile.call()).read()
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                gives += [await hostile.call(key=False) for _ in range(2)]
                await until(lambda: dispatcher.running == 4, "they are there")
                with pytest.raises(grpc.RpcError, match="Concurrent RPC limit exceeded") as caught:
                    await (await hostile.call()).read()
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                for give in gives:
                    give.cancel()

    asyncio.run(main())
